// The contribution of one token to loss, gradients and statistics. Shared by the CPU and the CUDA code.
#pragma once

#include "grpo_loss/grpo_loss.h"

namespace fastrl {

// Sums over one sequence's computed tokens.
struct SequenceTerms {
  double log_ratio = 0;   // sum, after finish() the mean
  double correction = 0;  // log of the weight, after finish() the weight
  double computed = 0;
};

enum class Fold { kSum, kMin, kMax };

FASTRL_HOST_DEVICE inline Fold fold_of(int stat) {
  if (stat == kRatioMin || stat == kCorrectionMin) return Fold::kMin;
  return stat == kRatioMax || stat == kCorrectionMax || stat == kRolloutDiffMax ? Fold::kMax : Fold::kSum;
}

template <typename Real>
FASTRL_HOST_DEVICE inline Real start_of(int stat) {
  const Fold fold = fold_of(stat);
  return fold == Fold::kSum ? Real(0) : (fold == Fold::kMin ? Real(INFINITY) : Real(-INFINITY));
}

template <typename Real>
FASTRL_HOST_DEVICE inline Real fold(int stat, Real a, Real b) {
  const Fold kind = fold_of(stat);
  if (kind == Fold::kSum) return a + b;
  return kind == Fold::kMin ? (a <= b ? a : b) : (a >= b ? a : b);
}

FASTRL_HOST_DEVICE inline bool corrects(const GrpoBatch& batch, const GrpoConfig& config) {
  return batch.rollout_logprobs && config.correction != CorrectionKind::kNone;
}

// Returns true if a token needs the sums of its sequence.
FASTRL_HOST_DEVICE inline bool by_sequence(const GrpoBatch& batch, const GrpoConfig& config) {
  return config.policy == PolicyKind::kSequenceClip || (corrects(batch, config) && config.correct_sequences);
}

// Returns the position of the i-th scored token in [0, T); -1 if it is ignored.
FASTRL_HOST_DEVICE inline std::int64_t position_of(const GrpoBatch& batch, const GrpoSelection& selection,
                                                   const GrpoScores& scores, std::int64_t i) {
  const std::int64_t t = scores.rows ? scores.rows[i] : i;
  return t < batch.tokens && selection.computed[t] ? t : -1;
}

// Returns the index of the first of `count` rising values that is >= value (with after: > value).
template <typename T>
FASTRL_HOST_DEVICE inline std::int64_t first_of(const T* values, std::int64_t count, std::int64_t value,
                                                bool after) {
  std::int64_t low = 0, high = count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (values[middle] < value || (after && values[middle] == value)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Returns the sequence of token t: the last one that starts at or before it.
FASTRL_HOST_DEVICE inline std::int64_t sequence_of(const GrpoBatch& batch, std::int64_t t) {
  return first_of(batch.cu_seqlens, batch.sequences + 1, t, true) - 1;
}

// Returns the index of the first scored token with a position >= t.
FASTRL_HOST_DEVICE inline std::int64_t index_of(const GrpoScores& scores, std::int64_t t) {
  return scores.rows ? first_of(scores.rows, scores.count, t, false) : t;
}

FASTRL_HOST_DEVICE inline float old_logprob(const GrpoBatch& batch, std::int64_t t, float logprob) {
  return batch.old_logprobs ? batch.old_logprobs[t] : logprob;
}

// Returns old - rollout; 0 for a token without a rollout log-prob (NaN).
FASTRL_HOST_DEVICE inline float rollout_difference(const GrpoBatch& batch, std::int64_t t, float old_logprob,
                                                   bool& known) {
  const float difference = old_logprob - batch.rollout_logprobs[t];
  known = difference == difference;
  return known ? difference : 0;
}

FASTRL_HOST_DEVICE inline void add_to_sequence(const GrpoBatch& batch, const GrpoSelection& selection,
                                               const GrpoScores& scores, std::int64_t i,
                                               SequenceTerms& terms) {
  const std::int64_t t = position_of(batch, selection, scores, i);
  if (t < 0) return;
  bool known;
  const float old = old_logprob(batch, t, scores.logprobs[i]);
  terms.computed += 1;
  terms.log_ratio += scores.logprobs[i] - old;
  if (batch.rollout_logprobs) terms.correction += rollout_difference(batch, t, old, known);
}

FASTRL_HOST_DEVICE inline void finish(const GrpoConfig& config, SequenceTerms& terms) {
  if (terms.computed > 0) terms.log_ratio /= terms.computed;
  terms.correction = correction_weight(terms.correction, config);
}

template <typename Stat>
FASTRL_HOST_DEVICE inline float token_correction(const GrpoBatch& batch, const GrpoConfig& config,
                                                 std::int64_t t, float old, const SequenceTerms& terms,
                                                 Stat* stats) {
  bool known;
  const float difference = rollout_difference(batch, t, old, known);
  const float distance = difference < 0 ? -difference : difference;
  if (known) {
    stats[kRolloutDiffSum] += distance;
    stats[kRolloutDiffCount] += 1;
    stats[kRolloutDiffMax] = fold<Stat>(kRolloutDiffMax, stats[kRolloutDiffMax], distance);
  }
  if (!corrects(batch, config)) return 1;
  const bool whole = config.correct_sequences;
  const float weight = whole ? static_cast<float>(terms.correction) : correction_weight(difference, config);
  const Stat count = whole ? Stat(1) / static_cast<Stat>(terms.computed) : Stat(1);
  stats[kCorrectionSum] += weight * count;
  stats[kCorrectionCount] += count;
  stats[kCorrectionMin] = fold<Stat>(kCorrectionMin, stats[kCorrectionMin], weight);
  stats[kCorrectionMax] = fold<Stat>(kCorrectionMax, stats[kCorrectionMax], weight);
  return weight;
}

// Adds the i-th scored token, at position t of sequence s, to stats and writes its gradients. terms are those
// of its sequence, read only if by_sequence().
template <typename Stat>
FASTRL_HOST_DEVICE inline void add_token(const GrpoBatch& batch, const GrpoSelection& selection,
                                         const GrpoScores& scores, const GrpoConfig& config, std::int64_t i,
                                         std::int64_t t, std::int64_t s, const SequenceTerms& terms,
                                         const GrpoResults& results, Stat* stats) {
  const std::int32_t length = config.average_sequences ? selection.lengths[s] : 1;
  const float weight = static_cast<float>(1 / (batch.denominator * length));
  TokenInput<float> in{};
  in.logprob = scores.logprobs[i];
  in.old_logprob = old_logprob(batch, t, in.logprob);
  in.advantage = batch.advantages[batch.advantages_per_token ? t : s];
  in.has_ref = batch.ref_logprobs != nullptr;
  in.ref_logprob = in.has_ref ? batch.ref_logprobs[t] : 0;
  in.entropy = scores.entropy ? scores.entropy[i] : 0;
  in.sequence_log_ratio = static_cast<float>(terms.log_ratio);
  in.correction =
      batch.rollout_logprobs ? token_correction(batch, config, t, in.old_logprob, terms, stats) : 1.0f;
  const TokenOutput<float> out = map_token(in, config);
  results.grad_logprobs[i] = weight * out.grad;
  if (results.grad_entropy) results.grad_entropy[i] = -weight * static_cast<float>(config.entropy_coef);
  stats[kLoss] += static_cast<Stat>(weight) * out.loss;
  stats[kNumTokens] += 1;
  stats[kEntropySum] += in.entropy;
  stats[kKLSum] += out.kl;
  stats[kClipLowSum] += out.clipped_low;
  stats[kClipHighSum] += out.clipped_high;
  stats[kRatioSum] += out.ratio;
  stats[kRatioMin] = fold<Stat>(kRatioMin, stats[kRatioMin], out.ratio);
  stats[kRatioMax] = fold<Stat>(kRatioMax, stats[kRatioMax], out.ratio);
  if (scores.self_certainty) stats[kSelfCertaintySum] += scores.self_certainty[i];
  if (scores.top1) stats[kTop1Sum] += scores.top1[i];
}

}  // namespace fastrl
