#include <cuda_runtime.h>

#include "common/cuda_check.h"
#include "grpo_loss/grpo_loss.h"
#include "grpo_loss/token_pass.h"

namespace fastrl {
namespace {

constexpr int kThreads = 256;

using Terms = SequenceTerms<float>;

// Sum of `value` over the block, valid in thread 0; a fixed tree, so the same bits every time.
__device__ float block_sum(float value, float* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  const float total = shared[0];
  __syncthreads();
  return total;
}

// One block a sequence.
__global__ void sequence_terms_kernel(GrpoTokens batch, GrpoConfig config, Terms* terms) {
  __shared__ float shared[kThreads];
  const std::int64_t s = blockIdx.x;
  Terms mine;
  for (std::int64_t t = batch.cu_seqlens[s] + threadIdx.x; t < batch.cu_seqlens[s + 1]; t += kThreads) {
    add_to_sequence(batch, t, mine);
  }
  mine.log_ratio = block_sum(mine.log_ratio, shared);
  mine.correction = block_sum(mine.correction, shared);
  mine.trained = block_sum(mine.trained, shared);
  if (threadIdx.x == 0) {
    finish(config, mine);
    terms[s] = mine;
  }
}

__device__ std::int64_t sequence_of(const GrpoTokens& batch, std::int64_t t) {
  std::int64_t low = 0, high = batch.sequences;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    if (batch.cu_seqlens[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// One thread a token; terms may be null. partial [blocks, kNumGrpoStats].
__global__ void token_kernel(GrpoTokens batch, GrpoConfig config, const Terms* terms, float* slopes,
                             float* partial) {
  __shared__ float shared[kThreads];
  float stats[kNumGrpoStats];
  for (int i = 0; i < kNumGrpoStats; ++i) stats[i] = start_of<float>(i);
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t < batch.tokens) {
    slopes[t] = add_token(batch, config, t, terms ? terms[sequence_of(batch, t)] : Terms{}, stats);
  }
  for (int i = 0; i < kNumGrpoStats; ++i) {
    shared[threadIdx.x] = stats[i];
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) shared[threadIdx.x] = fold(i, shared[threadIdx.x], shared[threadIdx.x + half]);
      __syncthreads();
    }
    if (threadIdx.x == 0) partial[static_cast<std::int64_t>(blockIdx.x) * kNumGrpoStats + i] = shared[0];
    __syncthreads();
  }
}

// One thread a statistic.
__global__ void fold_kernel(const float* partial, std::int64_t num_blocks, double* stats) {
  const int i = threadIdx.x;
  double total = start_of<double>(i);
  for (std::int64_t b = 0; b < num_blocks; ++b) {
    total = fold(i, total, static_cast<double>(partial[b * kNumGrpoStats + i]));
  }
  stats[i] = total;
}

std::int64_t blocks_of(std::int64_t tokens) { return (tokens + kThreads - 1) / kThreads; }

}  // namespace

bool cuda_built() { return true; }

std::int64_t grpo_scratch_size(std::int64_t tokens, std::int64_t sequences) {
  return sequences * static_cast<std::int64_t>(sizeof(Terms) / sizeof(float)) +
         blocks_of(tokens) * kNumGrpoStats;
}

void grpo_loss_cuda(const GrpoTokens& batch, const GrpoConfig& config, float* slopes, double* stats,
                    float* scratch, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  Terms* terms = reinterpret_cast<Terms*>(scratch);
  float* partial = scratch + batch.sequences * (sizeof(Terms) / sizeof(float));
  const bool whole = by_sequence(batch, config) && batch.sequences > 0;
  const auto num_blocks = blocks_of(batch.tokens);
  if (whole) {
    sequence_terms_kernel<<<static_cast<unsigned>(batch.sequences), kThreads, 0, queue>>>(batch, config,
                                                                                          terms);
    check_launch("grpo_loss");
  }
  if (num_blocks > 0) {
    token_kernel<<<static_cast<unsigned>(num_blocks), kThreads, 0, queue>>>(
        batch, config, whole ? terms : nullptr, slopes, partial);
    check_launch("grpo_loss");
  }
  fold_kernel<<<1, kNumGrpoStats, 0, queue>>>(partial, num_blocks, stats);
  check_launch("grpo_loss");
}

}  // namespace fastrl
