// Policy loss of packed sequences from the log-probs of their tokens: loss, slopes and statistics in one
// pass.
#pragma once

#include <cstdint>

#include "grpo_loss/token_map.h"

namespace fastrl {

// Pointers to [tokens] unless said otherwise; those marked optional may be null.
struct GrpoTokens {
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  const std::int32_t* cu_seqlens = nullptr;  // [sequences + 1]
  const float* logprobs = nullptr;
  const float* advantages = nullptr;
  const float* weights = nullptr;           // token weight / denominator; 0 where a token is not trained
  const float* old_logprobs = nullptr;      // optional: the ratio is then 1
  const float* ref_logprobs = nullptr;      // optional
  const float* rollout_logprobs = nullptr;  // optional
  const float* entropy = nullptr;           // optional
};

enum GrpoStat : int {
  kLoss,
  kNumTokens,
  kEntropySum,
  kKLSum,
  kClipLowSum,
  kClipHighSum,
  kRatioSum,
  kRatioMin,
  kRatioMax,
  kCorrectionSum,
  kCorrectionCount,
  kCorrectionMin,
  kCorrectionMax,
  kRolloutDiffSum,
  kRolloutDiffCount,
  kRolloutDiffMax,
  kNumGrpoStats
};

// slopes [tokens]: d loss / d logprob, 0 where weights is 0. stats [kNumGrpoStats]; stats[kLoss] is the loss.
// The order of sums does not depend on num_threads.
void grpo_loss_cpu(const GrpoTokens& batch, const GrpoConfig& config, float* slopes, double* stats,
                   int num_threads);

// The same on the device of the pointers, in float; nothing is waited for. scratch holds grpo_scratch_size
// floats.
std::int64_t grpo_scratch_size(std::int64_t tokens, std::int64_t sequences);
void grpo_loss_cuda(const GrpoTokens& batch, const GrpoConfig& config, float* slopes, double* stats,
                    float* scratch, void* stream);
bool cuda_built();

}  // namespace fastrl
