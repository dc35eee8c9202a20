// Operations of a Llama-like decoder layer other than products and attention, in float32.
#pragma once

#include <cstdint>

namespace fastrl {

// out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight, rows of `width` numbers. out may be x.
void rms_norm_cpu(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps,
                  float* out, int num_threads);

// out[t, i] = silu(gate_up[t, i]) * gate_up[t, width + i], for i < width.
void silu_mul_cpu(const float* gate_up, std::int64_t rows, std::int64_t width, float* out, int num_threads);

// Rotary embedding in place: halves (a, b) of a head become (a cos - b sin, b cos + a sin).
// x: [rows, heads, 2 * half], rows `stride` apart. cos, sin: [rows, half].
void rotate_cpu(float* x, std::int64_t rows, std::int64_t heads, std::int64_t half, std::int64_t stride,
                const float* cos, const float* sin, int num_threads);

}  // namespace fastrl
