// A parallel loop over static ranges with plain threads; a second OpenMP runtime would compete with torch's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace fastrl {

// Calls body(begin, end) on disjoint ranges that cover [0, count). The body must not throw, and its results
// must not depend on the ranges' bounds; then they don't depend on the number of threads.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t work, int num_threads, const Body& body) {
  constexpr std::int64_t kWorkWorthAThread = 1 << 18;
  std::int64_t parts = std::min({count, work / kWorkWorthAThread, static_cast<std::int64_t>(num_threads)});
  if (parts <= 1) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
  std::vector<std::thread> threads;
  threads.reserve(parts - 1);
  for (std::int64_t part = 1; part < parts; ++part) {
    threads.emplace_back(
        [&body, count, part, parts] { body(count * part / parts, count * (part + 1) / parts); });
  }
  body(std::int64_t{0}, count / parts);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace fastrl
