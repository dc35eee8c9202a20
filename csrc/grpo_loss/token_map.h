// The policy loss of one token and its gradient in the log-prob. Shared by the CPU and the CUDA code.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define FASTRL_HOST_DEVICE __host__ __device__
#else
#define FASTRL_HOST_DEVICE
#endif

namespace fastrl {

enum class PolicyKind : int { kClip, kSequenceClip, kWeightAbsolute, kWeightAroundOne, kReinforce };
enum class KLKind : int { kDifference = 1, kSquare = 2, kExponential = 3 };
enum class CorrectionKind : int { kNone, kTruncate, kMask };

struct GrpoConfig {
  PolicyKind policy = PolicyKind::kClip;
  double low = 0.8;      // lower clip of the ratio
  double high = 1.2;     // upper clip of the ratio
  double dual_clip = 0;  // cap of the ratio for negative advantages; 0: none
  KLKind kl = KLKind::kExponential;
  double kl_coef = 0;
  bool kl_ratio = false;  // multiply the KL by the ratio
  double entropy_coef = 0;
  bool average_sequences = false;  // weight of a token: 1 / (loss tokens of its sequence)
  CorrectionKind correction = CorrectionKind::kNone;
  bool correct_sequences = false;
  double correction_cap = 0;
};

constexpr double kLogRatioLimit = 20;

template <typename Real>
struct TokenInput {
  Real logprob, old_logprob, ref_logprob, advantage, entropy;
  Real sequence_log_ratio;  // only for kSequenceClip
  Real correction;
  bool has_ref;
};

template <typename Real>
struct TokenOutput {
  Real loss;  // before the token's weight
  Real grad;  // d loss / d logprob
  Real ratio;
  Real kl;
  bool clipped_low, clipped_high;
};

template <typename Real>
FASTRL_HOST_DEVICE inline Real clamp_log_ratio(Real log_ratio) {
  constexpr Real limit = kLogRatioLimit;
  return log_ratio > limit ? limit : (log_ratio < -limit ? -limit : log_ratio);
}

template <typename Real>
FASTRL_HOST_DEVICE inline void add_kl(const TokenInput<Real>& in, const GrpoConfig& config,
                                      bool ratio_clamped, TokenOutput<Real>& out) {
  const Real difference = in.logprob - in.ref_logprob;
  Real grad = 1;
  if (config.kl == KLKind::kDifference) {
    out.kl = difference;
  } else if (config.kl == KLKind::kSquare) {
    out.kl = difference * difference / 2;
    grad = difference;
  } else {
    const Real clamped = clamp_log_ratio(-difference);
    out.kl = std::expm1(clamped) - clamped;
    grad = clamped == -difference ? -std::expm1(clamped) : Real(0);
  }
  if (config.kl_ratio) {
    grad = out.ratio * (grad + (ratio_clamped ? Real(0) : out.kl));
    out.kl *= out.ratio;
  }
  out.loss += Real(config.kl_coef) * out.kl;
  out.grad += Real(config.kl_coef) * grad;
}

template <typename Real>
FASTRL_HOST_DEVICE inline TokenOutput<Real> map_token(const TokenInput<Real>& in, const GrpoConfig& config) {
  const Real log_ratio =
      config.policy == PolicyKind::kSequenceClip ? in.sequence_log_ratio : in.logprob - in.old_logprob;
  const Real clamped = clamp_log_ratio(log_ratio), a = in.advantage;
  const Real low = config.low, high = config.high, cap = config.dual_clip;
  TokenOutput<Real> out{0, 0, std::exp(clamped), 0, false, false};
  const bool below = out.ratio<low, above = out.ratio> high;
  Real policy, grad;
  if (config.policy == PolicyKind::kReinforce) {
    policy = -a * in.logprob;
    grad = -a;
  } else if (config.policy == PolicyKind::kWeightAbsolute || config.policy == PolicyKind::kWeightAroundOne) {
    const bool around = config.policy == PolicyKind::kWeightAroundOne;
    out.clipped_low = around && below;
    out.clipped_high = above && (around || a > 0);
    const Real weight = above ? high : (around && below ? low : out.ratio);
    policy = -weight * a * in.logprob;
    grad = -weight * a;
  } else {
    out.clipped_low = a < 0 && below;
    out.clipped_high = a > 0 && above;
    const bool capped = cap > 0 && a < 0 && out.ratio > cap;
    const Real used = out.clipped_low ? low : (out.clipped_high ? high : (capped ? cap : out.ratio));
    policy = -a * used;
    grad = out.clipped_low || out.clipped_high || capped || clamped != log_ratio ? Real(0) : -a * out.ratio;
  }
  out.loss = in.correction * policy;
  out.grad = in.correction * grad;
  if (in.has_ref) add_kl(in, config, clamped != log_ratio, out);
  if (config.entropy_coef != 0) out.loss -= Real(config.entropy_coef) * in.entropy;
  return out;
}

template <typename Real>
FASTRL_HOST_DEVICE inline Real correction_weight(Real log_weight, const GrpoConfig& config) {
  const Real weight = std::exp(clamp_log_ratio(log_weight)), cap = config.correction_cap;
  if (!(weight > cap)) return weight;
  return config.correction == CorrectionKind::kMask ? Real(0) : cap;
}

}  // namespace fastrl
