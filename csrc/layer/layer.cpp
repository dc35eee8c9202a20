#include "layer/layer.h"

#include <cmath>
#include <cstring>

#include "common/lanes.h"
#include "common/parallel.h"

namespace fastrl {
namespace {

FASTRL_CLONES void norm_row(const float* x, const float* weight, std::int64_t width, float eps, float* out) {
  Lanes squares[4] = {}, a, b;
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      load(x + i + k * kLanes, a);
      squares[k] += a * a;
    }
  }
  double total = sum(squares[0] + squares[1]) + sum(squares[2] + squares[3]);
  for (; i < width; ++i) total += static_cast<double>(x[i]) * x[i];
  const float factor = static_cast<float>(1 / std::sqrt(total / width + eps));
  for (i = 0; i + kLanes <= width; i += kLanes) {
    load(x + i, a);
    load(weight + i, b);
    store(a * factor * b, out + i);
  }
  for (; i < width; ++i) out[i] = x[i] * factor * weight[i];
}

// result = x * sigmoid(x), from exp(-|x|), which can't overflow.
FASTRL_INLINE void silu(const Lanes& x, Lanes& result) {
  Lanes e, below = x < 0 ? x : -x;
  exp_nonpositive(below, e);
  result = x * (x < 0 ? e : Lanes{} + 1.0f) / (1.0f + e);
}

FASTRL_CLONES void silu_mul_row(const float* gate, const float* up, std::int64_t width, float* out) {
  Lanes a, b, activated;
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    load(gate + i, a);
    load(up + i, b);
    silu(a, activated);
    store(activated * b, out + i);
  }
  if (i < width) {
    float rest[kLanes] = {};
    std::memcpy(rest, gate + i, sizeof(float) * (width - i));
    load(rest, a);
    silu(a, activated);
    store(activated, rest);
    for (std::int64_t j = i; j < width; ++j) out[j] = rest[j - i] * up[j];
  }
}

FASTRL_CLONES void rotate_row(float* x, std::int64_t heads, std::int64_t half, const float* cos,
                              const float* sin) {
  for (std::int64_t head = 0; head < heads; ++head, x += 2 * half) {
    Lanes a, b, c, s;
    std::int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      load(x + i, a);
      load(x + half + i, b);
      load(cos + i, c);
      load(sin + i, s);
      store(a * c - b * s, x + i);
      store(b * c + a * s, x + half + i);
    }
    for (; i < half; ++i) {
      const float first = x[i], second = x[half + i];
      x[i] = first * cos[i] - second * sin[i];
      x[half + i] = second * cos[i] + first * sin[i];
    }
  }
}

}  // namespace

void rms_norm_cpu(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps,
                  float* out, int num_threads) {
  parallel_for(rows, rows * width, num_threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) norm_row(x + t * width, weight, width, eps, out + t * width);
  });
}

void silu_mul_cpu(const float* gate_up, std::int64_t rows, std::int64_t width, float* out, int num_threads) {
  parallel_for(rows, 4 * rows * width, num_threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* gate = gate_up + 2 * t * width;
      silu_mul_row(gate, gate + width, width, out + t * width);
    }
  });
}

void rotate_cpu(float* x, std::int64_t rows, std::int64_t heads, std::int64_t half, std::int64_t stride,
                const float* cos, const float* sin, int num_threads) {
  parallel_for(rows, 2 * rows * heads * half, num_threads, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      rotate_row(x + t * stride, heads, half, cos + t * half, sin + t * half);
    }
  });
}

}  // namespace fastrl
