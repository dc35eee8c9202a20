// Scores and gradients of tiles of logits, vectorised.
#include "linear_logprob/linear_logprob.h"

#include <algorithm>
#include <cmath>

#include "common/lanes.h"
#include "common/parallel.h"
#include "linear_logprob/make_z.h"

namespace fastrl {
namespace {

constexpr std::int64_t kWorkALogit = 2;

struct Running {
  double max, others, excluded, weighted, sum_z, target;
};

// Returns the shift of exponents: the largest z so far, or 0 if that is -inf.
double shift_of(double max) { return max == kMinusInfinity ? 0 : max; }

void raise_max(double max, Running& row) {
  const double shift = shift_of(max), scale = std::exp(row.max - shift);
  row.weighted = scale == 0 ? 0 : scale * (row.weighted + row.others * (row.max - shift));
  row.others *= scale;
  row.excluded *= scale;
  row.max = max;
}

FASTRL_INLINE void max_and_sum(const float* z, std::int64_t width, float& max, double& total) {
  Lanes most, sums{};
  fill(kMinusInfinity, most);
  std::int64_t v = 0;
  for (; v + kLanes <= width; v += kLanes) {
    Lanes x;
    load(z + v, x);
    most = x > most ? x : most;
    sums += x;
  }
  total = sum(sums);
  max = kMinusInfinity;
  for (int lane = 0; lane < kLanes; ++lane) max = std::max(max, most[lane]);
  for (; v < width; ++v) {
    max = std::max(max, z[v]);
    total += z[v];
  }
}

// Adds exp(z - shift) to the row's sums. z of padding and of the row's own id is -inf.
FASTRL_INLINE void add_exponentials(const float* z, std::int64_t width, float shift, float floor,
                                    Running& row) {
  Lanes others{}, excluded{}, weighted{}, zero{};
  for (std::int64_t v = 0; v < width; v += kLanes) {
    Lanes x, e;
    load(z + v, x);
    const IntLanes outside = x < floor;
    x -= shift;
    exp_nonpositive(x, e);
    excluded += outside ? e : zero;
    e = outside ? zero : e;
    others += e;
    weighted += e * x;
  }
  row.others += sum(others);
  row.excluded += sum(excluded);
  row.weighted += sum(weighted);
}

FASTRL_CLONES void score_row(const Tile& tile, std::int64_t r, Running& row) {
  alignas(64) float z[kBlock + kLanes];
  const float* raw = tile.logits + r * tile.stride;
  const RowScaling scaling = scaling_of(tile, r);
  const float floor = tile.floor ? tile.floor[r] : kMinusInfinity;
  for (std::int64_t begin = 0; begin < tile.width; begin += kBlock) {
    const std::int64_t width = std::min(kBlock, tile.width - begin), own = tile.ids[r] - tile.first - begin;
    make_z(raw, begin, width, scaling, z);
    float max;
    double total;
    max_and_sum(z, width, max, total);
    row.sum_z += total;
    if (own >= 0 && own < width) {
      row.target = z[own];
      z[own] = kMinusInfinity;
    }
    if (max > row.max) raise_max(max, row);
    add_exponentials(z, width, static_cast<float>(shift_of(row.max)), floor, row);
  }
}

void finish(const RowScores& scores, std::int64_t r, const Running& row, std::int64_t vocab) {
  const double shifted = row.target - row.max, own = std::exp(shifted), total = row.others + own;
  // log1p(others) keeps what 1 + others would round away
  const auto log_of = [&](double others) {
    return shifted == 0 ? std::log1p(others) : std::log(others + own);
  };
  const double log_total = log_of(row.others), weighted = row.weighted + (own == 0 ? 0 : own * shifted);
  const double size = static_cast<double>(vocab);
  scores.total[r] = static_cast<float>(total);
  scores.logprobs[r] = static_cast<float>(shifted - log_total);
  scores.entropy[r] = static_cast<float>(log_total - weighted / total);
  scores.self_certainty[r] =
      static_cast<float>(log_of(row.others + row.excluded) + row.max - row.sum_z / size - std::log(size));
  scores.top1[r] = row.target >= row.max;
}

// z -> -outer * cap'(z) * p(z) * (grad_logprobs + grad_entropy * (log p(z) + entropy)).
struct RowGradient {
  float max, inverse_total, log_total, grad_logprobs, grad_entropy, entropy, outer, inverse_cap, floor;
};

FASTRL_INLINE void gradient_lanes(Lanes& z, const RowGradient& g) {
  Lanes shifted = z - g.max, p;
  const Lanes zero{};
  const IntLanes outside = z < g.floor;
  exp_nonpositive(shifted, p);
  p = outside ? zero : p * g.inverse_total;
  const Lanes capped = z * g.inverse_cap;
  const Lanes bracket = g.grad_logprobs + g.grad_entropy * (shifted - g.log_total + g.entropy);
  z = -g.outer * (1 - capped * capped) * p * bracket;
}

FASTRL_CLONES void gradient_row(const Tile& tile, std::int64_t r, const RowGradient& g, float* out) {
  alignas(64) float z[kBlock + kLanes];
  const float* raw = tile.logits + r * tile.stride;
  const RowScaling scaling = scaling_of(tile, r);
  for (std::int64_t begin = 0; begin < tile.width; begin += kBlock) {
    const std::int64_t width = std::min(kBlock, tile.width - begin);
    make_z(raw, begin, width, scaling, z);
    for (std::int64_t v = 0; v < width; v += kLanes) {
      Lanes x;
      load(z + v, x);
      const IntLanes padding = x == kMinusInfinity;
      const Lanes zero{};
      gradient_lanes(x, g);
      x = padding ? zero : x;
      store(x, z + v);
    }
    std::memcpy(out + begin, z, width * sizeof(float));
  }
}

void gradient_of_row(const Tile& tile, const RowScores& scores, std::int64_t r, float grad_logprobs,
                     float grad_entropy, float* out) {
  if (grad_logprobs == 0 && grad_entropy == 0) {
    std::fill(out, out + tile.width, 0.0f);
    return;
  }
  const HeadScaling& s = tile.scaling;
  const float inverse_temp = s.temperature ? 1 / s.temperature[r] : s.inverse_temperature;
  const double target = scores.target[r], total = scores.others[r] + std::exp(target - scores.max[r]);
  const float logprob = scores.logprobs[r], entropy = scores.entropy[r];
  const float outer = s.logit_scale * inverse_temp,
              inverse_cap = s.softcap > 0 ? 1 / (s.softcap * inverse_temp) : 0;
  gradient_row(
      tile, r,
      {static_cast<float>(scores.max[r]), static_cast<float>(1 / total), static_cast<float>(std::log(total)),
       grad_logprobs, grad_entropy, entropy, outer, inverse_cap, tile.floor ? tile.floor[r] : kMinusInfinity},
      out);
  const std::int64_t own = tile.ids[r] - tile.first;
  if (own < 0 || own >= tile.width) return;
  // 1 - p from the log-prob, so that it does not round to 0 for p near 1
  const float capped = static_cast<float>(target) * inverse_cap,
              cap_grad = inverse_cap == 0 ? 1 : 1 - capped * capped;
  const float entropy_term =
      grad_entropy == 0 || logprob == kMinusInfinity ? 0 : std::exp(logprob) * (logprob + entropy);
  out[own] = outer * cap_grad * (-grad_logprobs * std::expm1(logprob) - grad_entropy * entropy_term);
}

}  // namespace

void score_tile(const Tile& tile, const RowScores& scores, std::int64_t vocab, int num_threads) {
  const bool last = tile.first + tile.width == vocab;
  const auto score = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      if (tile.ids[r] < 0) continue;
      Running row{kMinusInfinity, 0, 0, 0, 0, kMinusInfinity};
      if (tile.first > 0) {
        row = {scores.max[r],      scores.others[r], scores.excluded[r],
               scores.weighted[r], scores.sum_z[r],  scores.target[r]};
      }
      score_row(tile, r, row);
      scores.max[r] = row.max;
      scores.others[r] = row.others;
      scores.excluded[r] = row.excluded;
      scores.weighted[r] = row.weighted;
      scores.sum_z[r] = row.sum_z;
      scores.target[r] = row.target;
      if (last) finish(scores, r, row, vocab);
    }
  };
  parallel_for(tile.rows, tile.rows * tile.width * kWorkALogit, num_threads, score);
}

void gradient_tile(const Tile& tile, const RowScores& scores, const float* grad_logprobs,
                   const float* grad_entropy, float* out, std::int64_t out_stride, int num_threads) {
  const auto differentiate = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      gradient_of_row(tile, scores, r, grad_logprobs[r], grad_entropy ? grad_entropy[r] : 0,
                      out + r * out_stride);
    }
  };
  parallel_for(tile.rows, tile.rows * tile.width * kWorkALogit, num_threads, differentiate);
}

}  // namespace fastrl
