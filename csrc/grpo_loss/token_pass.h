// What one token adds to the loss, the slopes and the statistics. Shared by the CPU and the CUDA code.
#pragma once

#include "grpo_loss/grpo_loss.h"

namespace fastrl {

template <typename Real>
struct SequenceTerms {
  Real log_ratio = 0;   // sum over its trained tokens, after finish() their mean
  Real correction = 0;  // log of the weight, after finish() the weight
  Real trained = 0;
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
  const Fold how = fold_of(stat);
  if (how == Fold::kSum) return a + b;
  return how == Fold::kMin ? (a <= b ? a : b) : (a >= b ? a : b);
}

FASTRL_HOST_DEVICE inline bool corrects(const GrpoTokens& batch, const GrpoConfig& config) {
  return batch.rollout_logprobs && config.correction != CorrectionKind::kNone;
}

// Whether a token needs the sums of its sequence.
FASTRL_HOST_DEVICE inline bool by_sequence(const GrpoTokens& batch, const GrpoConfig& config) {
  return config.policy == PolicyKind::kSequenceClip || (corrects(batch, config) && config.correct_sequences);
}

template <typename Real>
FASTRL_HOST_DEVICE inline Real old_logprob(const GrpoTokens& batch, std::int64_t t) {
  return batch.old_logprobs ? batch.old_logprobs[t] : batch.logprobs[t];
}

// old - rollout; a token that the sampler gave no log-prob for (NaN) counts as equal.
template <typename Real>
FASTRL_HOST_DEVICE inline Real rollout_difference(const GrpoTokens& batch, std::int64_t t, bool& known) {
  const Real difference = old_logprob<Real>(batch, t) - batch.rollout_logprobs[t];
  known = difference == difference;
  return known ? difference : Real(0);
}

template <typename Real>
FASTRL_HOST_DEVICE inline void add_to_sequence(const GrpoTokens& batch, std::int64_t t,
                                               SequenceTerms<Real>& terms) {
  if (batch.weights[t] == 0) return;
  bool known;
  terms.trained += 1;
  terms.log_ratio += batch.logprobs[t] - old_logprob<Real>(batch, t);
  if (batch.rollout_logprobs) terms.correction += rollout_difference<Real>(batch, t, known);
}

template <typename Real>
FASTRL_HOST_DEVICE inline void finish(const GrpoConfig& config, SequenceTerms<Real>& terms) {
  if (terms.trained > 0) terms.log_ratio /= terms.trained;
  terms.correction = correction_weight(terms.correction, config);
}

template <typename Real>
FASTRL_HOST_DEVICE inline Real token_correction(const GrpoTokens& batch, const GrpoConfig& config,
                                                std::int64_t t, const SequenceTerms<Real>& terms,
                                                Real* stats) {
  bool known;
  const Real difference = rollout_difference<Real>(batch, t, known);
  const Real distance = difference < 0 ? -difference : difference;
  if (known) {
    stats[kRolloutDiffSum] += distance;
    stats[kRolloutDiffCount] += 1;
    stats[kRolloutDiffMax] = fold(kRolloutDiffMax, stats[kRolloutDiffMax], distance);
  }
  if (!corrects(batch, config)) return 1;
  const bool whole = config.correct_sequences;
  const Real weight = whole ? terms.correction : correction_weight(difference, config);
  const Real count = whole ? 1 / terms.trained : Real(1);
  stats[kCorrectionSum] += weight * count;
  stats[kCorrectionCount] += count;
  stats[kCorrectionMin] = fold(kCorrectionMin, stats[kCorrectionMin], weight);
  stats[kCorrectionMax] = fold(kCorrectionMax, stats[kCorrectionMax], weight);
  return weight;
}

// Adds the token to stats; returns its slope. terms are those of its sequence, read only where by_sequence().
template <typename Real>
FASTRL_HOST_DEVICE inline float add_token(const GrpoTokens& batch, const GrpoConfig& config, std::int64_t t,
                                          const SequenceTerms<Real>& terms, Real* stats) {
  const Real weight = batch.weights[t];
  if (weight == 0) return 0;
  TokenInput<Real> in{};
  in.logprob = batch.logprobs[t];
  in.old_logprob = old_logprob<Real>(batch, t);
  in.advantage = batch.advantages[t];
  in.has_ref = batch.ref_logprobs != nullptr;
  in.ref_logprob = in.has_ref ? batch.ref_logprobs[t] : 0;
  in.entropy = batch.entropy ? batch.entropy[t] : 0;
  in.sequence_log_ratio = terms.log_ratio;
  in.correction = batch.rollout_logprobs ? token_correction(batch, config, t, terms, stats) : Real(1);
  const TokenOutput<Real> out = map_token(in, config);
  stats[kLoss] += weight * out.loss;
  stats[kNumTokens] += 1;
  stats[kEntropySum] += in.entropy;
  stats[kKLSum] += out.kl;
  stats[kClipLowSum] += out.clipped_low;
  stats[kClipHighSum] += out.clipped_high;
  stats[kRatioSum] += out.ratio;
  stats[kRatioMin] = fold(kRatioMin, stats[kRatioMin], out.ratio);
  stats[kRatioMax] = fold(kRatioMax, stats[kRatioMax], out.ratio);
  return static_cast<float>(weight * out.slope);
}

}  // namespace fastrl
