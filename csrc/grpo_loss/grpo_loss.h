// Policy loss of packed sequences: loss, gradients and statistics in one pass over the computed tokens.
#pragma once

#include <cstdint>

#include "grpo_loss/token_map.h"

namespace fastrl {

// T packed tokens of S sequences. Pointers are to [T] unless noted; optional ones may be null.
struct GrpoBatch {
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  const std::int32_t* cu_seqlens = nullptr;  // [S + 1]
  const float* advantages = nullptr;         // [T] or [S]
  bool advantages_per_token = false;
  const bool* loss_mask = nullptr;
  const float* old_logprobs = nullptr;      // optional; null: the ratio is 1
  const float* ref_logprobs = nullptr;      // optional
  const float* rollout_logprobs = nullptr;  // optional
  double denominator = 1;
};

// The tokens to compute, and the number of loss tokens per sequence.
struct GrpoSelection {
  bool* computed = nullptr;         // [T]
  std::int32_t* lengths = nullptr;  // [S]
};

// Scores of n tokens.
struct GrpoScores {
  std::int64_t count = 0;
  const std::int64_t* rows = nullptr;  // rising positions in [0, T), then padding T, ignored. null: all T
  const float* logprobs = nullptr;
  const float* entropy = nullptr;  // optional, like the next two
  const float* self_certainty = nullptr;
  const bool* top1 = nullptr;
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
  kSelfCertaintySum,
  kTop1Sum,
  kNumGrpoStats
};

// grad_logprobs [n]: d loss / d logprobs; grad_entropy [n]: d loss / d entropy, or null; stats:
// [kNumGrpoStats].
struct GrpoResults {
  float* grad_logprobs = nullptr;
  float* grad_entropy = nullptr;
  double* stats = nullptr;
};

// leave_out: skip tokens of advantage 0; with whole, only if their whole sequence has advantage 0.
void grpo_select_cpu(const GrpoBatch& batch, bool leave_out, bool whole, const GrpoSelection& selection);

// The order of sums does not depend on num_threads.
void grpo_loss_cpu(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                   const GrpoConfig& config, const GrpoResults& results, int num_threads);

// The same on the pointers' device, without host syncs. scratch has grpo_scratch_size floats.
void grpo_select_cuda(const GrpoBatch& batch, bool leave_out, bool whole, const GrpoSelection& selection,
                      void* stream);
std::int64_t grpo_scratch_size(std::int64_t count, std::int64_t sequences);
void grpo_loss_cuda(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                    const GrpoConfig& config, const GrpoResults& results, float* scratch, void* stream);
bool cuda_built();

}  // namespace fastrl
