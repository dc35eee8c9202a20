// The lower end of the support of top-k and top-p sampling.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "common/parallel.h"
#include "linear_logprob/linear_logprob.h"
#include "linear_logprob/make_z.h"

namespace fastrl {
namespace {

constexpr std::int64_t kWorkALogit = 8;

float kth_largest(const std::vector<float>& z, std::int64_t k, std::vector<float>& scratch) {
  scratch = z;
  std::nth_element(scratch.begin(), scratch.begin() + (k - 1), scratch.end(), std::greater<float>());
  return scratch[k - 1];
}

// Returns the smallest z of the smallest set of mass >= top_p among those >= least.
float end_of_mass(const std::vector<float>& z, float least, double top_p, std::vector<float>& scratch) {
  const float max = *std::max_element(z.begin(), z.end());
  double total = 0;
  for (const float x : z) total += x >= least ? std::exp(static_cast<double>(x) - max) : 0;
  // all tokens below this have less mass than 1 - top_p together, so none of them is in the set
  const double negligible = max + std::log(total * (1 - top_p) / static_cast<double>(z.size()));
  scratch.clear();
  for (const float x : z) {
    if (x >= least && (x > negligible - 1 || x == max)) scratch.push_back(x);
  }
  std::sort(scratch.begin(), scratch.end(), std::greater<float>());
  double mass = 0;
  float lowest = max;
  for (const float x : scratch) {
    if (mass >= top_p * total) break;
    lowest = x;
    mass += std::exp(static_cast<double>(x) - max);
  }
  return lowest;
}

// Returns the midpoint between lowest and the largest z outside, so that recomputed logits may differ in
// their last bits.
float between(const std::vector<float>& z, float lowest) {
  float below = kMinusInfinity;
  for (const float x : z) {
    if (x < lowest) below = std::max(below, x);
  }
  if (below == kMinusInfinity) return below;
  const float middle = below + (lowest - below) / 2;
  return middle > below ? middle : lowest;
}

}  // namespace

void support_floors(const Tile& tile, std::int64_t top_k, double top_p, float* floors, int num_threads) {
  const auto find = [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> z(tile.width + kLanes), scratch;
    for (std::int64_t r = begin; r < end; ++r) {
      if (tile.ids[r] < 0) continue;
      z.resize(tile.width + kLanes);
      make_z(tile.logits + r * tile.stride, 0, tile.width, scaling_of(tile, r), z.data());
      z.resize(tile.width);
      floors[r] = kMinusInfinity;
      // rows with NaN can't be ranked; their scores are NaN anyway
      if (std::any_of(z.begin(), z.end(), [](float x) { return x != x; })) continue;
      float lowest = kMinusInfinity;
      if (top_k > 0 && top_k < tile.width) lowest = kth_largest(z, top_k, scratch);
      if (top_p < 1) lowest = end_of_mass(z, lowest, top_p, scratch);
      floors[r] = between(z, lowest);
    }
  };
  parallel_for(tile.rows, tile.rows * tile.width * kWorkALogit, num_threads, find);
}

}  // namespace fastrl
