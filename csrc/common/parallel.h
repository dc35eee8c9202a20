// A parallel loop over static ranges, on the threads that torch uses itself.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace fastrl {

// OpenMP's entry point: runs work(data) on num_threads threads, the caller's included.
using OpenMpTeam = void (*)(void (*work)(void*), void* data, unsigned num_threads, unsigned flags);

// That of the OpenMP runtime in the process, which is torch's. Threads of our own would compete with torch's,
// which keep spinning for a while after each of its operations. Null if there is none.
inline OpenMpTeam openmp_team() {
  static const OpenMpTeam team = reinterpret_cast<OpenMpTeam>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return team;
}

// Runs work() on num_threads threads, with OpenMP or, where there is none, with plain threads.
template <class Work>
void run_on_threads(int num_threads, const Work& work) {
  if (const OpenMpTeam team = openmp_team()) {
    auto* const call = +[](void* data) { (*static_cast<const Work*>(data))(); };
    team(call, const_cast<Work*>(&work), static_cast<unsigned>(num_threads), 0);
    return;
  }
  std::vector<std::thread> threads;
  threads.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) threads.emplace_back(std::cref(work));
  work();
  for (std::thread& thread : threads) thread.join();
}

// Calls body(begin, end) on disjoint ranges that cover [0, count). The body must not throw, and its results
// must not depend on the ranges' bounds; then they don't depend on the number of threads. `work` is in
// operations of about a nanosecond.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t work, int num_threads, const Body& body) {
  constexpr std::int64_t kWorkWorthAThread = 1 << 16;
  const std::int64_t parts =
      std::min({count, work / kWorkWorthAThread, static_cast<std::int64_t>(num_threads)});
  if (parts <= 1) {
    if (count > 0) body(std::int64_t{0}, count);
    return;
  }
  // always all threads, since OpenMP ends and starts threads when their number changes
  std::atomic<std::int64_t> next{0};
  run_on_threads(num_threads, [&] {
    for (std::int64_t part; (part = next.fetch_add(1)) < parts;) {
      body(count * part / parts, count * (part + 1) / parts);
    }
  });
}

}  // namespace fastrl
