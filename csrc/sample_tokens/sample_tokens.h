// Draws one token per request from a row of logits.
#pragma once

#include <cstdint>

namespace fastrl {

// Sampling options, the same for all requests.
struct SamplingRule {
  float temperature;   // 0: the most likely token
  std::int64_t top_k;  // 0: all
  double top_p;        // 1: all
};

// logits: [rows, vocab], rows `stride` apart. Request r draws from row source[r], or from row r if source is
// null. uniforms: [requests] in [0, 1). ids, logprobs: [requests].
struct SamplingBatch {
  const float* logits;
  std::int64_t vocab;
  std::int64_t stride;
  const std::int64_t* source;
  const double* uniforms;
  std::int64_t requests;
  std::int64_t* ids;
  float* logprobs;
};

void sample_tokens_cpu(const SamplingBatch& batch, const SamplingRule& rule, int num_threads);

}  // namespace fastrl
