// Policy loss of packed sequences: loss, slopes and statistics in one pass over the computed tokens.
#pragma once

#include <cstdint>

#include "grpo_loss/token_map.h"

namespace fastrl {

// T packed tokens of S sequences. Pointers to [T] unless said otherwise; optional ones may be null.
struct GrpoBatch {
  std::int64_t tokens = 0;
  std::int64_t sequences = 0;
  const std::int32_t* cu_seqlens = nullptr;  // [S + 1]
  const float* advantages = nullptr;         // [T] or [S]
  bool advantages_per_token = false;
  const bool* loss_mask = nullptr;
  const float* old_logprobs = nullptr;      // optional: the ratio is then 1
  const float* ref_logprobs = nullptr;      // optional
  const float* rollout_logprobs = nullptr;  // optional
  double denominator = 1;
};

// Which tokens are computed, and how many of a sequence loss_mask holds.
struct GrpoSelection {
  bool* computed = nullptr;         // [T]
  std::int32_t* lengths = nullptr;  // [S]
};

// Of n tokens.
struct GrpoScores {
  std::int64_t count = 0;
  const std::int64_t* rows = nullptr;  // rising places in [0, T), then T: counts for nothing. null: all T
  const float* logprobs = nullptr;
  const float* entropy = nullptr;  // optional, as the next two
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

// slopes [n]: d loss / d logprobs; entropy_slopes [n]: d loss / d entropy, or null. stats [kNumGrpoStats].
struct GrpoResults {
  float* slopes = nullptr;
  float* entropy_slopes = nullptr;
  double* stats = nullptr;
};

// leave_out: without tokens of advantage 0; whole: unless another token of their sequence has one.
void grpo_select_cpu(const GrpoBatch& batch, bool leave_out, bool whole, const GrpoSelection& selection);

// The order of sums does not depend on num_threads.
void grpo_loss_cpu(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                   const GrpoConfig& config, const GrpoResults& results, int num_threads);

// The same on the device of the pointers; nothing is waited for. scratch holds grpo_scratch_size floats.
void grpo_select_cuda(const GrpoBatch& batch, bool leave_out, bool whole, const GrpoSelection& selection,
                      void* stream);
std::int64_t grpo_scratch_size(std::int64_t count, std::int64_t sequences);
void grpo_loss_cuda(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                    const GrpoConfig& config, const GrpoResults& results, float* scratch, void* stream);
bool cuda_built();

}  // namespace fastrl
