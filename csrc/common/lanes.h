// Vectors of floats, in GCC/Clang vector types. Sums have a fixed order, so results are bitwise reproducible
// on a machine.
#pragma once

#include <cstdint>
#include <cstring>

// One compiled copy per x86-64 level; the loader picks the best that the machine supports.
#if defined(FASTRL_HAS_TARGET_CLONES)
#define FASTRL_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FASTRL_CLONES
#endif
#define FASTRL_INLINE inline __attribute__((always_inline))

namespace fastrl {

// The width of one register; comparisons of wider vectors would be split into elements.
#if defined(__x86_64__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntLanes __attribute__((vector_size(4 * kLanes)));

FASTRL_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof(Lanes)); }
FASTRL_INLINE void store(const Lanes& from, float* to) { std::memcpy(to, &from, sizeof(Lanes)); }

FASTRL_INLINE void fill(float value, Lanes& to) { to = value - Lanes{}; }

FASTRL_INLINE double sum(const Lanes& values) {
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += values[lane];
  return total;
}

// exp of less counts as 0, so that no gradient is subnormal.
constexpr float kExpFloor = -64.0f;

// result = exp(x) for x <= 0 and x = max(x, kExpFloor); NaN stays NaN. Relative error below 2e-7.
FASTRL_INLINE void exp_nonpositive(Lanes& x, Lanes& result) {
  constexpr float kToLog2 = 1.44269504f, kLog2High = 0.693145752f, kLog2Low = 1.42860677e-6f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  IntLanes under = x < kExpFloor;
  Lanes floor_value, round_value;
  fill(kExpFloor, floor_value);
  fill(kRound, round_value);
  x = under ? floor_value : x;
  Lanes shifted = x * kToLog2 + round_value;
  Lanes whole = shifted - round_value;
  Lanes r = x - whole * kLog2High;
  r = r - whole * kLog2Low;
  Lanes p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  IntLanes shifted_bits, round_bits;
  std::memcpy(&shifted_bits, &shifted, sizeof(Lanes));
  std::memcpy(&round_bits, &round_value, sizeof(Lanes));
  IntLanes power_bits = (shifted_bits - round_bits + 127) << 23;
  Lanes power;
  std::memcpy(&power, &power_bits, sizeof(Lanes));
  result = under ? Lanes{} : p * power;
}

}  // namespace fastrl
