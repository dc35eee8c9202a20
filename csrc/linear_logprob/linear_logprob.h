// Scores of given tokens, and gradients, from tiles of logits. The formulas are in kernels/_rows.py.
#pragma once

#include <cstdint>

namespace fastrl {

// z = cap(logit_scale * (raw + bias)) / temperature, cap(x) = softcap * tanh(x / softcap).
struct HeadScaling {
  const float* bias = nullptr;         // [vocab], or null
  const float* temperature = nullptr;  // [rows], or null: all rows have inverse_temperature
  float inverse_temperature = 1;
  float logit_scale = 1;
  float softcap = 0;  // 0: no cap
};

// Columns [first, first + width) of the vocabulary.
struct Tile {
  const float* logits = nullptr;  // rows are `stride` elements apart
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t stride = 0;
  std::int64_t first = 0;
  const std::int64_t* ids = nullptr;  // [rows], columns of the whole vocabulary; -1: the row is skipped
  const float* floor = nullptr;       // [rows], lower end of the support; null: every token
  HeadScaling scaling;
};

// Scores per row; see RowScores in kernels/_rows.py.
struct RowScores {
  double* max = nullptr;
  double* others = nullptr;
  double* excluded = nullptr;
  double* weighted = nullptr;
  double* sum_z = nullptr;
  double* target = nullptr;
  float* total = nullptr;
  float* logprobs = nullptr;
  float* entropy = nullptr;
  float* self_certainty = nullptr;
  bool* top1 = nullptr;
};

// Adds a tile. The one with first = 0 overwrites the scores, the one that ends at vocab sets the final
// values.
void score_tile(const Tile& tile, const RowScores& scores, std::int64_t vocab, int num_threads);

// Writes out, with row stride out_stride: d/d raw of sum over rows of
//   grad_logprobs[row] * logprobs[row] + grad_entropy[row] * entropy[row];  grad_entropy may be null.
// out may be tile.logits.
void gradient_tile(const Tile& tile, const RowScores& scores, const float* grad_logprobs,
                   const float* grad_entropy, float* out, std::int64_t out_stride, int num_threads);

// Writes floors [rows] from a tile of the whole vocabulary: the lower end of the support, which is the top_k
// most likely tokens (0: all), and of them the smallest set of mass >= top_p.
void support_floors(const Tile& tile, std::int64_t top_k, double top_p, float* floors, int num_threads);

}  // namespace fastrl
