// Attention of decoding rows over shared segments and paged tails. The formula is in
// kernels/tree_decode/__init__.py.
#pragma once

#include <cstdint>

namespace fastrl {

// A piece of a segment and a tile of the rows below it; see Work in kernels/tree_decode/plan.py.
struct DecodeItem {
  std::int32_t slot, length, row_start, row_stop, position, rank;
};

struct DecodePlan {
  const DecodeItem* items = nullptr;
  std::int64_t num_items = 0;
  std::int64_t tile = 0;                         // most rows per item
  const std::int32_t* trunk_starts = nullptr;    // [rows + 1]
  const std::int32_t* prefix_lengths = nullptr;  // [rows]
  const std::int32_t* block_table = nullptr;     // [rows, blocks], row stride table_stride
  std::int64_t rows = 0, blocks = 0, table_stride = 0, block_size = 0;
};

// Rows and heads of a tensor whose last dimension is contiguous.
struct DecodeTensor {
  const void* data = nullptr;
  std::int64_t stride = 0, head_stride = 0;
};

struct DecodeLayer {
  DecodeTensor query, keys, values;  // [rows, query_heads, width], [slots, heads, width or value_width]
  void* out = nullptr;               // [rows, query_heads, value_width]
  bool bf16 = false;                 // all four; otherwise fp32
  std::int64_t slots = 0, query_heads = 0, heads = 0, width = 0, value_width = 0;
  const std::int32_t* tail_lengths = nullptr;  // [rows]
  float scaling = 1, softcap = 0;              // no cap: 0
  std::int64_t window = 0;                     // no window: 0
};

// Throws std::invalid_argument if a tail's length or a slot of it is out of range.
void tree_decode_cpu(const DecodePlan& plan, const DecodeLayer& layer, int num_threads);

}  // namespace fastrl
