// Sampling on a CPU. A row is read twice: once for its maximum, once for the sums of exponentials of its
// blocks. The block that holds the drawn token is read a third time. Only top-k and top-p copy a row, into a
// buffer of the thread.
#include "sample_tokens/sample_tokens.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "common/lanes.h"
#include "common/parallel.h"

namespace fastrl {
namespace {

constexpr std::int64_t kBlock = 512;  // columns whose weights are summed together
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Buffers of one thread, kept from row to row.
struct Workspace {
  std::vector<double> block_sums;
  std::vector<float> kept;     // logits, -inf where top-k or top-p leaves a token out
  std::vector<float> weights;  // exp(z - max)
  std::vector<float> order;
};

FASTRL_CLONES float row_max(const float* row, std::int64_t width) {
  Lanes best, x;
  fill(kMinusInfinity, best);
  std::int64_t v = 0;
  for (; v + kLanes <= width; v += kLanes) {
    load(row + v, x);
    best = x > best ? x : best;
  }
  float result = kMinusInfinity;
  for (int lane = 0; lane < kLanes; ++lane) result = std::max(result, best[lane]);
  for (; v < width; ++v) result = row[v] > result ? row[v] : result;
  return result;
}

// weights[v] = exp((row[v] - max) * inverse_temperature); returns their sum in float64: NaN if a
// logit is NaN.
FASTRL_CLONES double block_weights(const float* row, std::int64_t width, float max, float inverse_temperature,
                                   float* weights) {
  Lanes x, w, top;
  fill(max, top);
  double total = 0;
  std::int64_t v = 0;
  for (; v + kLanes <= width; v += kLanes) {
    load(row + v, x);
    x = (x - top) * inverse_temperature;
    exp_nonpositive(x, w);
    store(w, weights + v);
  }
  if (v < width) {
    float rest[kLanes] = {};
    for (std::int64_t i = v; i < width; ++i) rest[i - v] = (row[i] - max) * inverse_temperature;
    load(rest, x);
    exp_nonpositive(x, w);
    store(w, rest);
    std::memcpy(weights + v, rest, sizeof(float) * (width - v));
  }
  // four running sums hide the latency of an addition
  double sums[4] = {};
  std::int64_t i = 0;
  for (; i + 4 <= width; i += 4) {
    for (int k = 0; k < 4; ++k) sums[k] += weights[i + k];
  }
  for (; i < width; ++i) sums[0] += weights[i];
  for (double sum : sums) total += sum;
  return total;
}

std::int64_t first_max(const float* row, std::int64_t width, float max) {
  for (std::int64_t v = 0; v < width; ++v) {
    if (row[v] == max) return v;
  }
  return width - 1;
}

// Buckets of numbers >= 0 by exponent and the first three bits of the fraction; larger numbers, higher
// buckets.
constexpr int kBuckets = 1 << 11, kBucketShift = 20;

int bucket_of(float number) {
  std::uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return static_cast<int>(bits >> kBucketShift);
}

// Sets logits below the k-th largest to -inf; ties with the k-th stay. Buckets are by distance from the
// maximum; only the bucket that holds the k-th is searched.
void keep_top_k(std::vector<float>& row, float max, std::int64_t k, std::vector<float>& order) {
  std::int64_t counts[kBuckets] = {};
  for (float z : row) ++counts[bucket_of(max - z)];
  int edge = 0;
  while (k > counts[edge]) k -= counts[edge++];
  order.clear();
  for (float z : row) {
    if (bucket_of(max - z) == edge) order.push_back(z);
  }
  std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), std::greater<float>());
  const float least = order[k - 1];
  for (float& z : row) z = z < least ? kMinusInfinity : z;
}

// A token and its weight, ordered by descending weight, then by id.
struct Candidate {
  float weight;
  std::int64_t id;
  bool operator<(const Candidate& other) const {
    return weight != other.weight ? weight > other.weight : id < other.id;
  }
};

// Sets logits outside the smallest set of most likely tokens with mass top_p to -inf. Sorts only the bucket
// of weights in which the set ends.
void keep_top_p(std::vector<float>& row, const std::vector<float>& weights, double total, double top_p) {
  double mass[kBuckets] = {};
  for (float weight : weights) mass[bucket_of(weight)] += weight;
  const double wanted = top_p * total;
  double above = 0;
  int edge = kBuckets - 1;
  while (edge > 0 && above + mass[edge] < wanted) above += mass[edge--];
  std::vector<Candidate> candidates;
  for (std::size_t v = 0; v < weights.size(); ++v) {
    if (bucket_of(weights[v]) == edge) candidates.push_back({weights[v], static_cast<std::int64_t>(v)});
  }
  std::sort(candidates.begin(), candidates.end());
  std::size_t count = 0;
  while (count < candidates.size() && (above < wanted || (above == 0 && count == 0))) {
    above += candidates[count++].weight;
  }
  for (std::size_t v = 0; v < weights.size(); ++v) {
    if (bucket_of(weights[v]) < edge) row[v] = kMinusInfinity;
  }
  for (; count < candidates.size(); ++count) row[candidates[count].id] = kMinusInfinity;
}

double weigh_row(const float* row, std::int64_t width, float max, float inverse_temperature,
                 Workspace& space) {
  double total = 0;
  float weights[kBlock];
  space.block_sums.clear();
  for (std::int64_t begin = 0; begin < width; begin += kBlock) {
    const std::int64_t size = std::min(kBlock, width - begin);
    space.block_sums.push_back(block_weights(row + begin, size, max, inverse_temperature, weights));
    total += space.block_sums.back();
  }
  return total;
}

// Returns the row itself, or a copy with -inf for tokens outside top-k and top-p. A row with a NaN logit is
// returned as it is: its log-prob will be NaN.
const float* kept_row(const float* row, std::int64_t width, float max, const SamplingRule& rule,
                      Workspace& space) {
  const bool by_k = rule.top_k > 0 && rule.top_k < width;
  if (!by_k && !(rule.top_p < 1)) return row;
  space.weights.resize(width);
  double total = block_weights(row, width, max, 1 / rule.temperature, space.weights.data());
  if (!(total > 0)) return row;
  space.kept.assign(row, row + width);
  if (by_k) {
    keep_top_k(space.kept, max, rule.top_k, space.order);
    total = block_weights(space.kept.data(), width, max, 1 / rule.temperature, space.weights.data());
  }
  if (rule.top_p < 1) keep_top_p(space.kept, space.weights, total, rule.top_p);
  return space.kept.data();
}

// Returns the first token whose running sum exceeds the target; the last token if a sum is NaN.
std::int64_t find_token(const float* row, std::int64_t width, float max, float inverse_temperature,
                        double target, const std::vector<double>& block_sums) {
  double below = 0;
  std::size_t block = 0;
  while (block < block_sums.size() && below + block_sums[block] <= target) below += block_sums[block++];
  if (block == block_sums.size() || !(below + block_sums[block] > target)) return width - 1;
  const std::int64_t begin = block * kBlock, size = std::min(kBlock, width - begin);
  float weights[kBlock];
  block_weights(row + begin, size, max, inverse_temperature, weights);
  std::int64_t last = 0;  // last token with weight > 0, used if rounding keeps `below` <= target
  for (std::int64_t v = 0; v < size; ++v) {
    below += weights[v];
    if (below > target) return begin + v;
    if (weights[v] > 0) last = v;
  }
  return begin + last;
}

void sample_row(const SamplingBatch& batch, std::int64_t request, const SamplingRule& rule,
                Workspace& space) {
  const std::int64_t width = batch.vocab;
  const float* row = batch.logits + (batch.source ? batch.source[request] : request) * batch.stride;
  const float max = row_max(row, width);
  if (rule.temperature == 0) {
    const double total = weigh_row(row, width, max, 1.0f, space);
    batch.ids[request] = first_max(row, width, max);
    batch.logprobs[request] = static_cast<float>(-std::log(total));
    return;
  }
  const float inverse_temperature = 1 / rule.temperature;
  const float* kept = kept_row(row, width, max, rule, space);
  const double total = weigh_row(kept, width, max, inverse_temperature, space);
  const double target = std::min(batch.uniforms[request] * total, std::nextafter(total, 0.0));
  const std::int64_t id = find_token(kept, width, max, inverse_temperature, target, space.block_sums);
  batch.ids[request] = id;
  batch.logprobs[request] =
      static_cast<float>(static_cast<double>((kept[id] - max) * inverse_temperature) - std::log(total));
}

}  // namespace

void sample_tokens_cpu(const SamplingBatch& batch, const SamplingRule& rule, int num_threads) {
  parallel_for(batch.requests, batch.requests * batch.vocab, num_threads,
               [&](std::int64_t begin, std::int64_t end) {
                 Workspace space;
                 for (std::int64_t request = begin; request < end; ++request) {
                   sample_row(batch, request, rule, space);
                 }
               });
}

}  // namespace fastrl
