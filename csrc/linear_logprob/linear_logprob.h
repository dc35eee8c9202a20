// Tiles of logits -> scores of given tokens, and -> gradients. The formulas are those of kernels/_rows.py.
#pragma once

#include <cstdint>

namespace fastrl {

// z = cap(logit_scale * (raw + bias)) / temperature, cap(x) = softcap * tanh(x / softcap).
struct HeadScaling {
  const float* bias = nullptr;         // [vocab], or null
  const float* temperature = nullptr;  // [rows], or null: every row has inverse_temperature
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
  const std::int64_t* ids = nullptr;  // [rows], of the whole vocabulary; -1: the row is left out
  const float* floor = nullptr;       // [rows], smallest z in the support; null: all are
  HeadScaling scaling;
};

// Per row; what each one is: kernels/_rows.py, RowScores.
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

// Adds a tile. The one with first = 0 overwrites the scores, the one that ends at vocab fills the final ones.
void score_tile(const Tile& tile, const RowScores& scores, std::int64_t vocab, int num_threads);

// out, rows apart by out_stride: d/d raw of sum over rows of
//   grad_logprobs[row] * logprobs[row] + grad_entropy[row] * entropy[row];  grad_entropy may be null.
// out may be tile.logits.
void gradient_tile(const Tile& tile, const RowScores& scores, const float* grad_logprobs,
                   const float* grad_entropy, float* out, std::int64_t out_stride, int num_threads);

// floors [rows] from a tile of the whole vocabulary: where the support of the top_k likeliest tokens (0:
// all), and of them the smallest set of mass >= top_p, ends.
void support_floors(const Tile& tile, std::int64_t top_k, double top_p, float* floors, int num_threads);

}  // namespace fastrl
