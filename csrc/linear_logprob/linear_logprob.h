// Rows of logits -> scores of given tokens, and in place -> gradients.
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

struct Logits {
  float* values = nullptr;  // [rows, vocab]
  std::int64_t rows = 0;
  std::int64_t vocab = 0;
  const std::int64_t* ids = nullptr;  // [rows], the token that is scored
  HeadScaling scaling;
};

// Per row. max and sum say where the row's softmax stands: p[v] = exp(z[v] - max) / sum.
struct RowScores {
  float* logprob = nullptr;
  float* entropy = nullptr;
  float* self_certainty = nullptr;
  float* max = nullptr;
  float* sum = nullptr;
  bool* top1 = nullptr;
};

// Afterwards the buffer holds z, or exp(z - max) where keep_exponentials is true (then softcap must be 0).
void score_rows(const Logits& logits, const RowScores& scores, bool keep_exponentials, int num_threads);

// In place, after score_rows: d/d raw of sum over rows of
//   grad_logprob[row] * logprob[row] + grad_entropy[row] * entropy[row].
// exponentials: the buffer was left as exp(z - max); grad_entropy must then be null.
void gradient_rows(const Logits& logits, const RowScores& scores, const float* grad_logprob,
                   const float* grad_entropy, bool exponentials, int num_threads);

}  // namespace fastrl
