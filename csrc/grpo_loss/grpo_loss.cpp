#include "grpo_loss/grpo_loss.h"

#include <algorithm>
#include <array>
#include <vector>

#include "common/parallel.h"
#include "grpo_loss/token_pass.h"

namespace fastrl {
namespace {

constexpr std::int64_t kBlock = 4096;  // tokens whose statistics are summed before blocks are
constexpr std::int64_t kWorkAToken = 64;

using Stats = std::array<double, kNumGrpoStats>;
using Terms = SequenceTerms<double>;

Stats start() {
  Stats stats;
  for (int i = 0; i < kNumGrpoStats; ++i) stats[i] = start_of<double>(i);
  return stats;
}

std::vector<Terms> gather_sequences(const GrpoTokens& batch, const GrpoConfig& config, int num_threads) {
  std::vector<Terms> terms(batch.sequences);
  const auto gather = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      for (std::int64_t t = batch.cu_seqlens[s]; t < batch.cu_seqlens[s + 1]; ++t) {
        add_to_sequence(batch, t, terms[s]);
      }
      finish(config, terms[s]);
    }
  };
  parallel_for(batch.sequences, batch.tokens * kWorkAToken, num_threads, gather);
  return terms;
}

// Tokens [begin, end); terms is empty where tokens don't need their sequence.
Stats add_block(const GrpoTokens& batch, const GrpoConfig& config, const std::vector<Terms>& terms,
                std::int64_t begin, std::int64_t end, float* slopes) {
  Stats stats = start();
  const std::int32_t* bounds = batch.cu_seqlens;
  const Terms none;
  std::int64_t s = std::upper_bound(bounds, bounds + batch.sequences + 1, begin) - bounds - 1;
  for (std::int64_t t = begin; t < end; ++t) {
    while (t >= bounds[s + 1]) ++s;
    slopes[t] = add_token(batch, config, t, terms.empty() ? none : terms[s], stats.data());
  }
  return stats;
}

}  // namespace

void grpo_loss_cpu(const GrpoTokens& batch, const GrpoConfig& config, float* slopes, double* stats,
                   int num_threads) {
  std::vector<Terms> terms;
  if (by_sequence(batch, config)) terms = gather_sequences(batch, config, num_threads);
  const std::int64_t num_blocks = (batch.tokens + kBlock - 1) / kBlock;
  std::vector<Stats> blocks(num_blocks);
  parallel_for(num_blocks, batch.tokens * kWorkAToken, num_threads,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b) {
                   const std::int64_t last = std::min((b + 1) * kBlock, batch.tokens);
                   blocks[b] = add_block(batch, config, terms, b * kBlock, last, slopes);
                 }
               });
  Stats total = start();
  for (const Stats& block : blocks) {
    for (int i = 0; i < kNumGrpoStats; ++i) total[i] = fold(i, total[i], block[i]);
  }
  std::copy(total.begin(), total.end(), stats);
}

}  // namespace fastrl
