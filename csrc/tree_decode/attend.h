// Attention of a few queries of one key-value head to a list of tokens, in chunks with an online softmax.
// Each score is one chain of multiply-adds over the width, each output one over the tokens, so a query's
// result is bitwise independent of the other queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/lanes.h"
#include "linear_logprob/make_z.h"  // tanh_lanes

#if defined(__clang__)
#define FASTRL_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTRL_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntLanes{__VA_ARGS__})
#endif

// Unrolls loops of constant length over vectors, which keeps the vectors in registers.
#define FASTRL_UNROLL _Pragma("GCC unroll 8")

namespace fastrl::decode {

constexpr std::int64_t kChunk = 32;  // tokens; a chunk of wide keys still fits into the L1 cache
static_assert(kChunk % (4 * kLanes) == 0, "a chunk is processed four vectors at a time");

struct Bf16 {
  std::uint16_t bits;
};

// An unaligned vector type that loads as one register, also in functions cloned for wider registers.
typedef float LooseLanes __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
FASTRL_INLINE void load(const float* from, Lanes& to) { to = *reinterpret_cast<const LooseLanes*>(from); }
FASTRL_INLINE void store(const Lanes& from, float* to) { *reinterpret_cast<LooseLanes*>(to) = from; }

FASTRL_INLINE void load(const Bf16* from, Lanes& to) {
  typedef std::uint16_t Halves __attribute__((vector_size(2 * kLanes)));
  typedef std::uint32_t Words __attribute__((vector_size(4 * kLanes)));
  Halves halves;
  std::memcpy(&halves, from, sizeof(Halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(&to, &words, sizeof(Lanes));
}

constexpr std::int64_t padded(std::int64_t width) { return (width + kLanes - 1) / kLanes * kLanes; }

// The slot of token t is blocks[t / block_size] + t % block_size.
struct Tokens {
  const std::int32_t* blocks;
  std::int64_t block_size, length;
};

// Keys or values of one head.
template <class Element>
struct Pool {
  const Element* data;
  std::int64_t stride, width;
};

struct Scoring {
  float inward, outward;  // score = outward * tanh(inward * product); no cap: outward is 0
};

// Some queries and the state of their online softmax.
struct Queries {
  std::int64_t count, width;  // width is padded
  const float* scaled;        // [count, width], zeros in the padding
  const std::int64_t* first;  // [count] first visible token of each
  float* max;                 // [count]
  float* total;               // [count, kLanes] sums of exp(score - max), to be summed over lanes
  float* const* sums;         // [count] x [padded value width]
};

// A worker's buffers for a chunk of tokens.
struct Chunk {
  float* transposed;  // [padded width, kChunk]
  float* scores;      // [queries, kChunk]
  float* factors;     // [queries]
  void* keys;         // [kChunk, padded width] elements, for widths that are no multiple of a vector
  void* values;       // [kChunk, padded value width]
};

#if defined(__x86_64__)
FASTRL_INLINE void transpose(Lanes (&rows)[kLanes]) {
  Lanes pairs[kLanes], fours[kLanes];
  FASTRL_UNROLL
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = FASTRL_SHUFFLE(rows[i], rows[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = FASTRL_SHUFFLE(rows[i], rows[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  FASTRL_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    FASTRL_UNROLL
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = FASTRL_SHUFFLE(pairs[i + j], pairs[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      fours[i + 2 * j + 1] = FASTRL_SHUFFLE(pairs[i + j], pairs[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  FASTRL_UNROLL
  for (int i = 0; i < 4; ++i) {
    rows[i] = FASTRL_SHUFFLE(fours[i], fours[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    rows[i + 4] = FASTRL_SHUFFLE(fours[i], fours[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

FASTRL_INLINE float largest_of(Lanes x) {
  Lanes y = FASTRL_SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
  x = y > x ? y : x;
  y = FASTRL_SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5);
  x = y > x ? y : x;
  y = FASTRL_SHUFFLE(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
  x = y > x ? y : x;
  return x[0];
}
#else
FASTRL_INLINE void transpose(Lanes (&rows)[kLanes]) {
  Lanes pairs[kLanes];
  FASTRL_UNROLL
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = FASTRL_SHUFFLE(rows[i], rows[i + 1], 0, 4, 1, 5);
    pairs[i + 1] = FASTRL_SHUFFLE(rows[i], rows[i + 1], 2, 6, 3, 7);
  }
  FASTRL_UNROLL
  for (int j = 0; j < 2; ++j) {
    rows[2 * j] = FASTRL_SHUFFLE(pairs[j], pairs[j + 2], 0, 1, 4, 5);
    rows[2 * j + 1] = FASTRL_SHUFFLE(pairs[j], pairs[j + 2], 2, 3, 6, 7);
  }
}

FASTRL_INLINE float largest_of(Lanes x) {
  Lanes y = FASTRL_SHUFFLE(x, x, 2, 3, 0, 1);
  x = y > x ? y : x;
  y = FASTRL_SHUFFLE(x, x, 1, 0, 3, 2);
  x = y > x ? y : x;
  return x[0];
}
#endif

// Finds the rows of tokens [begin, begin + count), and repeats the last one up to a full vector.
template <class Element>
FASTRL_INLINE void locate(const Tokens& tokens, std::int64_t begin, std::int64_t count,
                          const Pool<Element>& pool, void* room, const Element** at) {
  std::int64_t block = begin / tokens.block_size, within = begin % tokens.block_size;
  for (std::int64_t t = 0; t < count; ++block, within = 0) {
    const Element* row = pool.data + (tokens.blocks[block] + within) * pool.stride;
    const std::int64_t end = std::min(count, t + tokens.block_size - within);
    for (; t < end; ++t, row += pool.stride) at[t] = row;
  }
  const std::int64_t whole = padded(pool.width);
  if (whole != pool.width) {
    Element* rows = static_cast<Element*>(room);
    for (std::int64_t t = 0; t < count; ++t, rows += whole) {
      std::memset(rows + pool.width, 0, (whole - pool.width) * sizeof(Element));
      std::memcpy(rows, at[t], pool.width * sizeof(Element));
      at[t] = rows;
    }
  }
  for (std::int64_t t = count; t < padded(count); ++t) at[t] = at[count - 1];
}

template <class Element>
FASTRL_INLINE void transpose_keys(const Element* const* at, std::int64_t count, std::int64_t width,
                                  float* transposed) {
  for (std::int64_t t = 0; t < count; t += kLanes) {
    for (std::int64_t k = 0; k < width; k += kLanes) {
      Lanes rows[kLanes];
      FASTRL_UNROLL
      for (int i = 0; i < kLanes; ++i) load(at[t + i] + k, rows[i]);
      transpose(rows);
      FASTRL_UNROLL
      for (int i = 0; i < kLanes; ++i) store(rows[i], transposed + (k + i) * kChunk + t);
    }
  }
}

// Computes the products of kQueries queries and kVectors vectors of tokens.
template <int kQueries, int kVectors>
FASTRL_INLINE void score_block(const float* queries, std::int64_t width, const float* transposed,
                               float* scores) {
  Lanes sums[kQueries][kVectors] = {};
  for (std::int64_t k = 0; k < width; ++k) {
    Lanes keys[kVectors];
    FASTRL_UNROLL
    for (int v = 0; v < kVectors; ++v) load(transposed + k * kChunk + v * kLanes, keys[v]);
    FASTRL_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const float query = queries[i * width + k];
      FASTRL_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] += query * keys[v];
    }
  }
  FASTRL_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    FASTRL_UNROLL
    for (int v = 0; v < kVectors; ++v) store(sums[i][v], scores + i * kChunk + v * kLanes);
  }
}

// With few queries more tokens are processed at once, so that enough multiply-adds are in flight.
template <int kQueries>
FASTRL_INLINE void score_queries(const float* queries, std::int64_t width, std::int64_t count,
                                 const float* transposed, float* scores) {
  constexpr int kVectors = kQueries <= 3 ? 4 : 2;
  std::int64_t t = 0;
  for (; t + kVectors * kLanes <= padded(count); t += kVectors * kLanes) {
    score_block<kQueries, kVectors>(queries, width, transposed + t, scores + t);
  }
  for (; t < count; t += kLanes) score_block<kQueries, 1>(queries, width, transposed + t, scores + t);
}

// sums = factor * sums + weights x rows of tokens [begin, count), for columns [column, column + kVectors *
// kLanes).
template <int kQueries, int kVectors, class Element>
FASTRL_INLINE void mix_block(const float* weights, const float* factors, const Element* const* at,
                             std::int64_t begin, std::int64_t count, std::int64_t column,
                             float* const* sums) {
  Lanes mixed[kQueries][kVectors];
  FASTRL_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    FASTRL_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      load(sums[i] + column + v * kLanes, mixed[i][v]);
      mixed[i][v] *= factors[i];
    }
  }
  for (std::int64_t t = begin; t < count; ++t) {
    Lanes values[kVectors];
    FASTRL_UNROLL
    for (int v = 0; v < kVectors; ++v) load(at[t] + column + v * kLanes, values[v]);
    FASTRL_UNROLL
    for (int i = 0; i < kQueries; ++i) {
      const float weight = weights[i * kChunk + t];
      FASTRL_UNROLL
      for (int v = 0; v < kVectors; ++v) mixed[i][v] += weight * values[v];
    }
  }
  FASTRL_UNROLL
  for (int i = 0; i < kQueries; ++i) {
    FASTRL_UNROLL
    for (int v = 0; v < kVectors; ++v) store(mixed[i][v], sums[i] + column + v * kLanes);
  }
}

template <int kQueries, class Element>
FASTRL_INLINE void mix_queries(const float* weights, const float* factors, const Element* const* at,
                               std::int64_t begin, std::int64_t count, std::int64_t width,
                               float* const* sums) {
  constexpr int kVectors = kQueries <= 3 ? 4 : 2;
  std::int64_t c = 0;
  for (; c + kVectors * kLanes <= width; c += kVectors * kLanes) {
    mix_block<kQueries, kVectors>(weights, factors, at, begin, count, c, sums);
  }
  for (; c < width; c += kLanes) mix_block<kQueries, 1>(weights, factors, at, begin, count, c, sums);
}

// Replaces scores of tokens [begin, begin + count) by exp(score - max), 0 for hidden tokens. Returns the
// factor of the previous sums, since the max may have risen.
FASTRL_INLINE float weigh(const Scoring& scoring, std::int64_t begin, std::int64_t count, std::int64_t first,
                          float* scores, float& max, float* total) {
  Lanes most, hidden_value;
  fill(kMinusInfinity, most);
  hidden_value = most;
  IntLanes lane;
  FASTRL_UNROLL
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  const std::int32_t seen = static_cast<std::int32_t>(std::clamp<std::int64_t>(first - begin, 0, kChunk));
  for (std::int64_t t = 0; t < count; t += kLanes) {
    Lanes x;
    load(scores + t, x);
    if (scoring.outward != 0) {
      x *= scoring.inward;
      tanh_lanes(x);
      x *= scoring.outward;
    }
    if (t < seen || t + kLanes > count) {
      const IntLanes token = lane + static_cast<std::int32_t>(t);
      const IntLanes hidden = (token < seen) | (token >= static_cast<std::int32_t>(count));
      x = hidden ? hidden_value : x;
    }
    store(x, scores + t);
    most = x > most ? x : most;
  }
  const float largest = std::max(max, largest_of(most));
  const float shift = largest == kMinusInfinity ? 0 : largest;
  const float factor = largest == max ? 1 : max == kMinusInfinity ? 0 : std::exp(max - shift);
  max = largest;
  Lanes sums;
  load(total, sums);
  sums *= factor;
  for (std::int64_t t = 0; t < count; t += kLanes) {
    Lanes x, e;
    load(scores + t, x);
    x -= shift;
    exp_nonpositive(x, e);
    store(e, scores + t);
    sums += e;
  }
  store(sums, total);
  return factor;
}

// Partial results with a stride: [width] sums, then their total and max.
struct Records {
  const float* first;
  std::int64_t count, stride, width;
};

// Merges records in order; max, total and sums must be those of an empty softmax.
FASTRL_INLINE void merge_records(const Records& records, float& max, float& total, float* sums) {
  const float* const totals = records.first + records.width;
  for (std::int64_t i = 0; i < records.count; ++i) max = std::max(max, totals[i * records.stride + 1]);
  const float shift = max == kMinusInfinity ? 0 : max;
  for (std::int64_t begin = 0; begin < records.count; begin += kLanes) {
    const std::int64_t end = std::min<std::int64_t>(begin + kLanes, records.count);
    Lanes x, factors;
    fill(kMinusInfinity, x);
    for (std::int64_t i = begin; i < end; ++i) x[i - begin] = totals[i * records.stride + 1] - shift;
    exp_nonpositive(x, factors);
    for (std::int64_t i = begin; i < end; ++i) {
      const float factor = factors[i - begin];
      const float* from = records.first + i * records.stride;
      total += factor * from[records.width];
      for (std::int64_t c = 0; c < records.width; c += kLanes) {
        Lanes part, gathered;
        load(from + c, part);
        load(sums + c, gathered);
        gathered += factor * part;
        store(gathered, sums + c);
      }
    }
  }
}

// Returns how many of the remaining queries to process together: all, or about equal parts of at most 6.
constexpr std::int64_t part_of(std::int64_t left) {
  return left <= 6 ? left : left < 12 ? (left + 1) / 2 : 6;
}

FASTRL_INLINE void score_all(const Queries& queries, std::int64_t count, const Chunk& chunk) {
  for (std::int64_t q = 0, n; q < queries.count; q += n) {
    n = part_of(queries.count - q);
    const float* scaled = queries.scaled + q * queries.width;
    float* scores = chunk.scores + q * kChunk;
    switch (n) {
      case 1:
        score_queries<1>(scaled, queries.width, count, chunk.transposed, scores);
        break;
      case 2:
        score_queries<2>(scaled, queries.width, count, chunk.transposed, scores);
        break;
      case 3:
        score_queries<3>(scaled, queries.width, count, chunk.transposed, scores);
        break;
      case 4:
        score_queries<4>(scaled, queries.width, count, chunk.transposed, scores);
        break;
      case 5:
        score_queries<5>(scaled, queries.width, count, chunk.transposed, scores);
        break;
      default:
        score_queries<6>(scaled, queries.width, count, chunk.transposed, scores);
    }
  }
}

template <class Element>
FASTRL_INLINE void mix_all(const Queries& queries, const Element* const* at, std::int64_t begin,
                           std::int64_t count, std::int64_t width, const Chunk& chunk) {
  for (std::int64_t q = 0, n; q < queries.count; q += n) {
    n = part_of(queries.count - q);
    const float *weights = chunk.scores + q * kChunk, *factors = chunk.factors + q;
    float* const* sums = queries.sums + q;
    switch (n) {
      case 1:
        mix_queries<1>(weights, factors, at, begin, count, width, sums);
        break;
      case 2:
        mix_queries<2>(weights, factors, at, begin, count, width, sums);
        break;
      case 3:
        mix_queries<3>(weights, factors, at, begin, count, width, sums);
        break;
      case 4:
        mix_queries<4>(weights, factors, at, begin, count, width, sums);
        break;
      case 5:
        mix_queries<5>(weights, factors, at, begin, count, width, sums);
        break;
      default:
        mix_queries<6>(weights, factors, at, begin, count, width, sums);
    }
  }
}

// Adds the tokens to what the queries have gathered.
template <class Element>
FASTRL_INLINE void attend(const Tokens& tokens, const Pool<Element>& keys, const Pool<Element>& values,
                          const Scoring& scoring, const Queries& queries, const Chunk& chunk) {
  const Element* at[kChunk];
  std::int64_t first = tokens.length;
  for (std::int64_t q = 0; q < queries.count; ++q) first = std::min(first, queries.first[q]);
  // chunks begin at multiples of kChunk for every query, so that sums have a fixed order
  for (std::int64_t begin = first / kChunk * kChunk; begin < tokens.length; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, tokens.length - begin);
    locate(tokens, begin, count, keys, chunk.keys, at);
    transpose_keys(at, count, queries.width, chunk.transposed);
    score_all(queries, count, chunk);
    for (std::int64_t q = 0; q < queries.count; ++q) {
      chunk.factors[q] = weigh(scoring, begin, count, queries.first[q], chunk.scores + q * kChunk,
                               queries.max[q], queries.total + q * kLanes);
    }
    locate(tokens, begin, count, values, chunk.values, at);
    // values that no query sees are skipped, since 0 * NaN would be NaN
    mix_all(queries, at, std::max<std::int64_t>(0, first - begin), count, padded(values.width), chunk);
  }
}

}  // namespace fastrl::decode
