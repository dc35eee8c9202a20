// The policy loss in CUDA, with the same token math as on a CPU.
#include <cuda_runtime.h>

#include "common/cuda_check.h"
#include "grpo_loss/grpo_loss.h"
#include "grpo_loss/token_pass.h"

namespace fastrl {
namespace {

constexpr int kThreads = 256;

// Returns the sum of `value` over the block in every thread; a fixed tree, so it is bitwise reproducible.
template <typename T>
__device__ T block_sum(T value, T* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  const T total = shared[0];
  __syncthreads();
  return total;
}

// One block per sequence.
__global__ void select_kernel(GrpoBatch batch, bool leave_out, bool whole, GrpoSelection selection) {
  __shared__ int shared[kThreads];
  const std::int64_t s = blockIdx.x, begin = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
  int length = 0, moving = 0;
  for (std::int64_t t = begin + threadIdx.x; t < end; t += kThreads) {
    length += batch.loss_mask[t];
    moving += batch.loss_mask[t] && batch.advantages[batch.advantages_per_token ? t : s] != 0;
  }
  length = block_sum(length, shared);
  moving = block_sum(moving, shared);
  for (std::int64_t t = begin + threadIdx.x; t < end; t += kThreads) {
    const bool moves = whole ? moving > 0 : batch.advantages[batch.advantages_per_token ? t : s] != 0;
    selection.computed[t] = batch.loss_mask[t] && (moves || !leave_out);
  }
  if (threadIdx.x == 0) selection.lengths[s] = length;
}

// One block per sequence.
__global__ void sequence_terms_kernel(GrpoBatch batch, GrpoSelection selection, GrpoScores scores,
                                      GrpoConfig config, SequenceTerms* terms) {
  __shared__ double shared[kThreads];
  const std::int64_t s = blockIdx.x, last = index_of(scores, batch.cu_seqlens[s + 1]);
  SequenceTerms own;
  for (std::int64_t i = index_of(scores, batch.cu_seqlens[s]) + threadIdx.x; i < last; i += kThreads) {
    add_to_sequence(batch, selection, scores, i, own);
  }
  own.log_ratio = block_sum(own.log_ratio, shared);
  own.correction = block_sum(own.correction, shared);
  own.computed = block_sum(own.computed, shared);
  if (threadIdx.x == 0) {
    finish(config, own);
    terms[s] = own;
  }
}

// One thread per token; terms may be null. partial: [blocks, kNumGrpoStats].
__global__ void token_kernel(GrpoBatch batch, GrpoSelection selection, GrpoScores scores, GrpoConfig config,
                             const SequenceTerms* terms, GrpoResults results, float* partial) {
  __shared__ float shared[kThreads];
  float stats[kNumGrpoStats];
  for (int i = 0; i < kNumGrpoStats; ++i) stats[i] = start_of<float>(i);
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < scores.count) {
    const std::int64_t t = position_of(batch, selection, scores, i);
    results.grad_logprobs[i] = 0;
    if (results.grad_entropy) results.grad_entropy[i] = 0;
    if (t >= 0) {
      const std::int64_t s = sequence_of(batch, t);
      add_token(batch, selection, scores, config, i, t, s, terms ? terms[s] : SequenceTerms{}, results,
                stats);
    }
  }
  for (int stat = 0; stat < kNumGrpoStats; ++stat) {
    shared[threadIdx.x] = stats[stat];
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) {
        shared[threadIdx.x] = fold(stat, shared[threadIdx.x], shared[threadIdx.x + half]);
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) partial[static_cast<std::int64_t>(blockIdx.x) * kNumGrpoStats + stat] = shared[0];
    __syncthreads();
  }
}

// One thread per statistic.
__global__ void fold_kernel(const float* partial, std::int64_t num_blocks, double* stats) {
  const int i = threadIdx.x;
  double total = start_of<double>(i);
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    total = fold(i, total, static_cast<double>(partial[b * kNumGrpoStats + i]));
  }
  stats[i] = total;
}

std::int64_t blocks_of(std::int64_t count) { return (count + kThreads - 1) / kThreads; }

constexpr std::int64_t kTermsFloats = sizeof(SequenceTerms) / sizeof(float);

}  // namespace

bool cuda_built() { return true; }

void grpo_select_cuda(const GrpoBatch& batch, bool leave_out, bool whole, const GrpoSelection& selection,
                      void* stream) {
  if (batch.sequences == 0) return;
  const auto blocks = static_cast<unsigned>(batch.sequences);
  select_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(batch, leave_out, whole,
                                                                            selection);
  check_launch("grpo_loss");
}

std::int64_t grpo_scratch_size(std::int64_t count, std::int64_t sequences) {
  return sequences * kTermsFloats + blocks_of(count) * kNumGrpoStats;
}

void grpo_loss_cuda(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                    const GrpoConfig& config, const GrpoResults& results, float* scratch, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  auto* terms = reinterpret_cast<SequenceTerms*>(scratch);
  float* partial = scratch + batch.sequences * kTermsFloats;
  const bool whole = by_sequence(batch, config) && batch.sequences > 0;
  const auto num_blocks = blocks_of(scores.count);
  if (whole) {
    sequence_terms_kernel<<<static_cast<unsigned>(batch.sequences), kThreads, 0, queue>>>(
        batch, selection, scores, config, terms);
    check_launch("grpo_loss");
  }
  if (num_blocks > 0) {
    token_kernel<<<static_cast<unsigned>(num_blocks), kThreads, 0, queue>>>(
        batch, selection, scores, config, whole ? terms : nullptr, results, partial);
    check_launch("grpo_loss");
  }
  fold_kernel<<<1, kNumGrpoStats, 0, queue>>>(partial, num_blocks, results.stats);
  check_launch("grpo_loss");
}

}  // namespace fastrl
