// Scaling of raw logits to z, a block at a time.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/lanes.h"
#include "linear_logprob/linear_logprob.h"

namespace fastrl {

constexpr std::int64_t kBlock = 1024;  // columns; z of a block fits into the L1 cache
constexpr float kMinusInfinity = -__builtin_inff();

// Scaling of a row's logits.
struct RowScaling {
  const float* bias;  // bias of the tile's first column, or null
  float factor;       // z = raw * factor without a cap, otherwise outward * tanh(raw * factor)
  float outward;      // 0: no cap
};

inline RowScaling scaling_of(const Tile& tile, std::int64_t row) {
  const HeadScaling& s = tile.scaling;
  const float inverse_temp = s.temperature ? 1 / s.temperature[row] : s.inverse_temperature;
  const float* bias = s.bias ? s.bias + tile.first : nullptr;
  if (s.softcap > 0) return {bias, s.logit_scale / s.softcap, s.softcap * inverse_temp};
  return {bias, s.logit_scale * inverse_temp, 0};
}

// tanh, relative error below 3e-7.
FASTRL_INLINE void tanh_lanes(Lanes& x) {
  constexpr float kSmall = 0.625f;
  const Lanes size = x < 0 ? -x : x;
  const Lanes square = x * x;
  Lanes near = square * -0.005772903f + 0.02070053f;  // fitted to (tanh(x) / x - 1) / x^2
  near = near * square - 0.05375864f;
  near = near * square + 0.13331668f;
  near = near * square - 0.3333329f;
  near = x + x * square * near;
  Lanes twice = size * -2.0f, e;
  exp_nonpositive(twice, e);
  Lanes far = (1 - e) / (1 + e);
  far = x < 0 ? -far : far;
  x = size < kSmall ? near : far;
}

FASTRL_INLINE void scale_lanes(const RowScaling& scaling, Lanes& x) {
  x *= scaling.factor;
  if (scaling.outward == 0) return;
  tanh_lanes(x);
  x *= scaling.outward;
}

// Writes z of columns [begin, begin + width), with -inf as padding to a multiple of kLanes.
FASTRL_INLINE void make_z(const float* raw, std::int64_t begin, std::int64_t width, const RowScaling& scaling,
                          float* z) {
  const float* from = raw + begin;
  const float* bias = scaling.bias ? scaling.bias + begin : nullptr;
  Lanes x, b;
  std::int64_t v = 0;
  for (; v + kLanes <= width; v += kLanes) {
    load(from + v, x);
    if (bias) {
      load(bias + v, b);
      x += b;
    }
    scale_lanes(scaling, x);
    store(x, z + v);
  }
  if (v == width) return;
  float rest[kLanes] = {};
  for (std::int64_t i = v; i < width; ++i) rest[i - v] = from[i] + (bias ? bias[i] : 0);
  load(rest, x);
  scale_lanes(scaling, x);
  store(x, z + v);
  for (std::int64_t i = width; i % kLanes != 0; ++i) z[i] = kMinusInfinity;
}

}  // namespace fastrl
