#include "linear_logprob/linear_logprob.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/lanes.h"
#include "common/parallel.h"

namespace fastrl {
namespace {

// Sums run in float lanes within a block and in double across blocks.
constexpr std::int64_t kBlock = 1024;

float inverse_temperature(const HeadScaling& scaling, std::int64_t row) {
  return scaling.temperature ? 1 / scaling.temperature[row] : scaling.inverse_temperature;
}

FASTRL_CLONES void scale_row(float* row, std::int64_t vocab, const float* bias, float factor) {
  if (bias) {
    for (std::int64_t v = 0; v < vocab; ++v) row[v] = (row[v] + bias[v]) * factor;
  } else {
    for (std::int64_t v = 0; v < vocab; ++v) row[v] *= factor;
  }
}

void cap_row(float* row, std::int64_t vocab, const HeadScaling& scaling, float inverse_temp) {
  const float inward = scaling.logit_scale / scaling.softcap, outward = scaling.softcap * inverse_temp;
  for (std::int64_t v = 0; v < vocab; ++v) {
    const float raw = row[v] + (scaling.bias ? scaling.bias[v] : 0);
    row[v] = outward * std::tanh(raw * inward);
  }
}

FASTRL_CLONES void max_and_sum(const float* row, std::int64_t vocab, float& max, double& total) {
  Lanes most;
  fill(-std::numeric_limits<float>::infinity(), most);
  total = 0;
  std::int64_t v = 0;
  for (; v + kLanes <= vocab;) {
    const std::int64_t end = std::min(v + kBlock, vocab - vocab % kLanes);
    Lanes block{};
    for (; v < end; v += kLanes) {
      Lanes z;
      load(row + v, z);
      most = z > most ? z : most;
      block += z;
    }
    total += sum(block);
  }
  max = -std::numeric_limits<float>::infinity();
  for (int lane = 0; lane < kLanes; ++lane) max = std::max(max, most[lane]);
  for (; v < vocab; ++v) {
    max = std::max(max, row[v]);
    total += row[v];
  }
}

// sum = sum of e, weighted = sum of e * (z - max), with e = exp(z - max); e is written back if asked for.
FASTRL_CLONES void exponentials(float* row, std::int64_t vocab, float max, bool keep, double& total,
                                double& weighted) {
  total = weighted = 0;
  Lanes shift;
  fill(max, shift);
  for (std::int64_t v = 0; v + kLanes <= vocab;) {
    const std::int64_t end = std::min(v + kBlock, vocab - vocab % kLanes);
    Lanes block{}, weighted_block{};
    for (; v < end; v += kLanes) {
      Lanes z, e;
      load(row + v, z);
      z -= shift;
      exp_nonpositive(z, e);
      block += e;
      weighted_block += e * z;
      if (keep) store(e, row + v);
    }
    total += sum(block);
    weighted += sum(weighted_block);
  }
  const std::int64_t rest = vocab % kLanes;
  if (rest == 0) return;
  Lanes z, e;
  fill(-std::numeric_limits<float>::infinity(), z);
  std::memcpy(&z, row + vocab - rest, rest * sizeof(float));
  z -= shift;
  exp_nonpositive(z, e);
  total += sum(e);
  weighted += sum(Lanes(e * z));
  if (keep) std::memcpy(row + vocab - rest, &e, rest * sizeof(float));
}

void score_row(const Logits& logits, const RowScores& scores, std::int64_t r, bool keep) {
  const HeadScaling& scaling = logits.scaling;
  float* row = logits.values + r * logits.vocab;
  const float inverse_temp = inverse_temperature(scaling, r);
  if (scaling.softcap > 0) {
    cap_row(row, logits.vocab, scaling, inverse_temp);
  } else if (scaling.bias || scaling.logit_scale * inverse_temp != 1) {
    scale_row(row, logits.vocab, scaling.bias, scaling.logit_scale * inverse_temp);
  }
  float max;
  double total_z, others, weighted;
  max_and_sum(row, logits.vocab, max, total_z);

  // The scored token is left out of the sum: log1p(others) keeps what 1 + others would round away.
  float& target = row[logits.ids[r]];
  const float z = target;
  target = -std::numeric_limits<float>::infinity();
  exponentials(row, logits.vocab, max, keep, others, weighted);
  const double shifted = static_cast<double>(z) - max, e = std::exp(shifted);
  target = keep ? static_cast<float>(e) : z;

  const double sum = others + e, log_sum = z == max ? std::log1p(others) : std::log(sum);
  const double weighted_target = e > 0 ? e * shifted : 0;
  const double mean = total_z / static_cast<double>(logits.vocab);
  scores.logprob[r] = static_cast<float>(shifted - log_sum);
  scores.entropy[r] = static_cast<float>(log_sum - (weighted + weighted_target) / sum);
  scores.self_certainty[r] =
      static_cast<float>(max - mean + log_sum - std::log(static_cast<double>(logits.vocab)));
  scores.max[r] = max;
  scores.sum[r] = static_cast<float>(sum);
  scores.top1[r] = z >= max;
}

FASTRL_CLONES void scale_exponentials(float* row, std::int64_t vocab, float factor) {
  for (std::int64_t v = 0; v < vocab; ++v) row[v] *= factor;
}

// z -> outer * p(z) * (grad_logprob + grad_entropy * (log p(z) + entropy)), negated.
struct RowGradient {
  float max, inverse_sum, log_sum, grad_logprob, grad_entropy, entropy, outer, inverse_cap;
};

FASTRL_INLINE void gradient_lanes(Lanes& z, const RowGradient& g) {
  Lanes shifted = z - g.max, p;
  exp_nonpositive(shifted, p);
  p *= g.inverse_sum;
  const Lanes slope = 1 - (z * g.inverse_cap) * (z * g.inverse_cap);
  z = -g.outer * slope * p * (g.grad_logprob + g.grad_entropy * (shifted - g.log_sum + g.entropy));
}

FASTRL_CLONES void gradient_of_z(float* row, std::int64_t vocab, const RowGradient& g) {
  Lanes z;
  std::int64_t v = 0;
  for (; v + kLanes <= vocab; v += kLanes) {
    load(row + v, z);
    gradient_lanes(z, g);
    store(z, row + v);
  }
  if (v == vocab) return;
  fill(g.max, z);
  std::memcpy(&z, row + v, (vocab - v) * sizeof(float));
  gradient_lanes(z, g);
  std::memcpy(row + v, &z, (vocab - v) * sizeof(float));
}

void gradient_row(const Logits& logits, const RowScores& scores, std::int64_t r, float grad_logprob,
                  float grad_entropy, bool exponentials) {
  const HeadScaling& scaling = logits.scaling;
  float* row = logits.values + r * logits.vocab;
  float& target = row[logits.ids[r]];
  if (grad_logprob == 0 && grad_entropy == 0) {
    std::fill(row, row + logits.vocab, 0.0f);
    return;
  }
  const float inverse_temp = inverse_temperature(scaling, r), outer = scaling.logit_scale * inverse_temp;
  const float inverse_cap = scaling.softcap > 0 ? 1 / (scaling.softcap * inverse_temp) : 0;
  const float z = target, logprob = scores.logprob[r];
  if (exponentials) {
    scale_exponentials(row, logits.vocab, -outer * grad_logprob / scores.sum[r]);
  } else {
    gradient_of_z(row, logits.vocab,
                  {scores.max[r], 1 / scores.sum[r], std::log(scores.sum[r]), grad_logprob, grad_entropy,
                   scores.entropy[r], outer, inverse_cap});
  }
  // 1 - p of a likely token, without rounding p first.
  const float slope = exponentials ? 1 : 1 - (z * inverse_cap) * (z * inverse_cap);
  const float by_entropy = grad_entropy == 0 ? 0 : std::exp(logprob) * (logprob + scores.entropy[r]);
  target = outer * slope * (-grad_logprob * std::expm1(logprob) - grad_entropy * by_entropy);
}

}  // namespace

void score_rows(const Logits& logits, const RowScores& scores, bool keep_exponentials, int num_threads) {
  parallel_for(logits.rows, logits.rows * logits.vocab, num_threads,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) score_row(logits, scores, r, keep_exponentials);
               });
}

void gradient_rows(const Logits& logits, const RowScores& scores, const float* grad_logprob,
                   const float* grad_entropy, bool exponentials, int num_threads) {
  parallel_for(
      logits.rows, logits.rows * logits.vocab, num_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          gradient_row(logits, scores, r, grad_logprob[r], grad_entropy ? grad_entropy[r] : 0, exponentials);
        }
      });
}

}  // namespace fastrl
