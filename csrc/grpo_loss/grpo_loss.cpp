// The policy loss on a CPU: one pass over the computed tokens.
#include "grpo_loss/grpo_loss.h"

#include <algorithm>
#include <array>
#include <vector>

#include "common/parallel.h"
#include "grpo_loss/token_pass.h"

namespace fastrl {
namespace {

constexpr std::int64_t kBlock = 4096;  // tokens per block of statistics; blocks are summed in order
constexpr std::int64_t kWorkAToken = 16;

using Stats = std::array<double, kNumGrpoStats>;

Stats start() {
  Stats stats;
  for (int i = 0; i < kNumGrpoStats; ++i) stats[i] = start_of<double>(i);
  return stats;
}

std::vector<SequenceTerms> gather_sequences(const GrpoBatch& batch, const GrpoSelection& selection,
                                            const GrpoScores& scores, const GrpoConfig& config,
                                            int num_threads) {
  std::vector<SequenceTerms> terms(batch.sequences);
  const auto gather = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      const std::int64_t last = index_of(scores, batch.cu_seqlens[s + 1]);
      for (std::int64_t i = index_of(scores, batch.cu_seqlens[s]); i < last; ++i) {
        add_to_sequence(batch, selection, scores, i, terms[s]);
      }
      finish(config, terms[s]);
    }
  };
  parallel_for(batch.sequences, scores.count * kWorkAToken, num_threads, gather);
  return terms;
}

// Adds scored tokens [begin, end); terms is empty if tokens don't need sums over their sequence.
Stats add_block(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                const GrpoConfig& config, const std::vector<SequenceTerms>& terms, const GrpoResults& results,
                std::int64_t begin, std::int64_t end) {
  Stats stats = start();
  const SequenceTerms none;
  std::int64_t s = -1;
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t t = position_of(batch, selection, scores, i);
    if (t < 0) {
      results.grad_logprobs[i] = 0;
      if (results.grad_entropy) results.grad_entropy[i] = 0;
      continue;
    }
    if (s < 0) s = sequence_of(batch, t);
    while (t >= batch.cu_seqlens[s + 1]) ++s;
    add_token(batch, selection, scores, config, i, t, s, terms.empty() ? none : terms[s], results,
              stats.data());
  }
  return stats;
}

}  // namespace

void grpo_select_cpu(const GrpoBatch& batch, bool leave_out, bool whole, const GrpoSelection& selection) {
  for (std::int64_t s = 0; s < batch.sequences; ++s) {
    const std::int64_t begin = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
    std::int32_t length = 0;
    bool some = false;
    for (std::int64_t t = begin; t < end; ++t) {
      const bool moves = batch.advantages[batch.advantages_per_token ? t : s] != 0;
      length += batch.loss_mask[t];
      some |= batch.loss_mask[t] && moves;
      selection.computed[t] = batch.loss_mask[t] && (moves || !leave_out);
    }
    selection.lengths[s] = length;
    if (leave_out && whole && some) {
      std::copy(batch.loss_mask + begin, batch.loss_mask + end, selection.computed + begin);
    }
  }
}

void grpo_loss_cpu(const GrpoBatch& batch, const GrpoSelection& selection, const GrpoScores& scores,
                   const GrpoConfig& config, const GrpoResults& results, int num_threads) {
  std::vector<SequenceTerms> terms;
  if (by_sequence(batch, config)) terms = gather_sequences(batch, selection, scores, config, num_threads);
  const std::int64_t num_blocks = (scores.count + kBlock - 1) / kBlock;
  std::vector<Stats> blocks(num_blocks);
  parallel_for(num_blocks, scores.count * kWorkAToken, num_threads,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t b = begin; b < end; ++b) {
                   const std::int64_t last = std::min((b + 1) * kBlock, scores.count);
                   blocks[b] = add_block(batch, selection, scores, config, terms, results, b * kBlock, last);
                 }
               });
  Stats total = start();
  for (const Stats& block : blocks) {
    for (int i = 0; i < kNumGrpoStats; ++i) total[i] = fold(i, total[i], block[i]);
  }
  std::copy(total.begin(), total.end(), results.stats);
}

}  // namespace fastrl
