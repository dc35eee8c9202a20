// Decode attention on a CPU: threads process pieces of trunks, then rows with their tails, merged in a fixed
// order.
#include "tree_decode/tree_decode.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/parallel.h"
#include "tree_decode/attend.h"

namespace fastrl {
namespace {

using namespace decode;

constexpr std::int64_t kProductsAWork = 8;  // multiply-adds in a nanosecond

// Wrappers that are cloned per x86-64 level; templates can't be cloned.
FASTRL_CLONES void attend_fp32(const Tokens& tokens, const Pool<float>& keys, const Pool<float>& values,
                               const Scoring& scoring, const Queries& queries, const Chunk& chunk) {
  attend(tokens, keys, values, scoring, queries, chunk);
}

FASTRL_CLONES void attend_bf16(const Tokens& tokens, const Pool<Bf16>& keys, const Pool<Bf16>& values,
                               const Scoring& scoring, const Queries& queries, const Chunk& chunk) {
  attend(tokens, keys, values, scoring, queries, chunk);
}

void attend_any(const Tokens& tokens, const Pool<float>& keys, const Pool<float>& values,
                const Scoring& scoring, const Queries& queries, const Chunk& chunk) {
  attend_fp32(tokens, keys, values, scoring, queries, chunk);
}

void attend_any(const Tokens& tokens, const Pool<Bf16>& keys, const Pool<Bf16>& values,
                const Scoring& scoring, const Queries& queries, const Chunk& chunk) {
  attend_bf16(tokens, keys, values, scoring, queries, chunk);
}

FASTRL_CLONES void merge(const Records& records, float& max, float& total, float* sums) {
  merge_records(records, max, total, sums);
}

float to_float(float x) { return x; }

float to_float(Bf16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(float));
  return result;
}

void round_to(float x, float& to) { to = x; }

// Rounds to nearest, ties to even.
void round_to(float x, Bf16& to) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(float));
  to.bits = static_cast<std::uint16_t>(x != x ? 0x7FC0 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Returns the size of a partial result: [padded value width] sums, their total and max.
std::int64_t record_size(const DecodeLayer& layer) { return padded(layer.value_width) + kLanes; }

float added_up(const float* lanes) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

// Arrays of one worker, in one allocation.
struct Scratch {
  std::vector<float> floats;
  std::vector<std::int64_t> first;
  std::vector<float*> sums;
  float *max, *total, *own_sums;
  Chunk chunk;

  Scratch(const DecodeLayer& layer, std::int64_t most) : first(most), sums(most) {
    const std::int64_t width = padded(layer.width), value_width = padded(layer.value_width);
    const std::int64_t own = layer.query_heads / layer.heads * value_width;
    const std::int64_t sizes[] = {
        most, most * kLanes, own, width * kChunk, most * kChunk, most, width * kChunk, value_width * kChunk};
    std::int64_t size = 0;
    for (const std::int64_t part : sizes) size += part;
    floats.resize(size);
    float* arrays[8];
    float* next = floats.data();
    for (int i = 0; i < 8; ++i) {
      arrays[i] = next;
      next += sizes[i];
    }
    max = arrays[0], total = arrays[1], own_sums = arrays[2];
    chunk = {arrays[3], arrays[4], arrays[5], arrays[6], arrays[7]};
  }
};

// The work of one call; Element is the type of all tensors. Workers take pieces, and rows once all pieces are
// done.
template <class Element>
class Decode {
 public:
  Decode(const DecodePlan& plan, const DecodeLayer& layer, float* scaled, float* partials)
      : plan_(plan),
        layer_(layer),
        scaled_(scaled),
        partials_(partials),
        group_(layer.query_heads / layer.heads) {
    scoring_ = layer.softcap > 0 ? Scoring{1 / layer.softcap, layer.softcap} : Scoring{1, 0};
  }

  // Writes scaled queries [heads, rows, group, padded width], so that those of a head and consecutive rows
  // are contiguous. Call it before work().
  void scale_queries() {
    const std::int64_t width = padded(layer_.width);
    float* to = scaled_;
    for (std::int64_t head = 0; head < layer_.query_heads; head += group_) {
      for (std::int64_t i = 0; i < plan_.rows * group_; ++i, to += width) {
        const Element* from = static_cast<const Element*>(layer_.query.data) +
                              i / group_ * layer_.query.stride +
                              (head + i % group_) * layer_.query.head_stride;
        for (std::int64_t k = 0; k < layer_.width; ++k) to[k] = layer_.scaling * to_float(from[k]);
        std::fill(to + layer_.width, to + width, 0.0f);
      }
    }
  }

  void work() {
    Scratch scratch(layer_, group_ * std::max<std::int64_t>(plan_.tile, 1));
    const std::int64_t pieces = plan_.num_items * layer_.heads, rows = plan_.rows * layer_.heads;
    for (std::int64_t i; (i = next_piece_.fetch_add(1)) < pieces; pieces_done_.fetch_add(1)) {
      piece(plan_.items[i / layer_.heads], i % layer_.heads, scratch);
    }
    while (pieces_done_.load() < pieces) std::this_thread::yield();
    for (std::int64_t i; (i = next_row_.fetch_add(1)) < rows;) {
      row(i / layer_.heads, i % layer_.heads, scratch);
    }
  }

 private:
  Pool<Element> pool(const DecodeTensor& tensor, std::int64_t head, std::int64_t width) const {
    return {static_cast<const Element*>(tensor.data) + head * tensor.head_stride, tensor.stride, width};
  }

  float* record(std::int64_t row, std::int64_t rank, std::int64_t query_head) const {
    const std::int64_t partial = plan_.trunk_starts[row] + rank;
    return partials_ + (partial * layer_.query_heads + query_head) * record_size(layer_);
  }

  // Returns the first position that the row's token sees.
  std::int64_t first_seen(std::int64_t row) const {
    if (layer_.window == 0) return 0;
    return plan_.prefix_lengths[row] + layer_.tail_lengths[row] - layer_.window;
  }

  // Attends `count` queries of the head, from a row's first one on, to some tokens.
  void gather(const Tokens& tokens, std::int64_t row, std::int64_t head, std::int64_t count,
              const Scratch& scratch) const {
    const std::int64_t width = padded(layer_.width);
    const float* scaled = scaled_ + (head * plan_.rows + row) * group_ * width;
    const Queries queries{
        count, width, scaled, scratch.first.data(), scratch.max, scratch.total, scratch.sums.data()};
    attend_any(tokens, pool(layer_.keys, head, layer_.width), pool(layer_.values, head, layer_.value_width),
               scoring_, queries, scratch.chunk);
  }

  void start(std::int64_t count, std::int64_t first, Scratch& scratch, std::int64_t at) const {
    std::fill_n(scratch.first.begin() + at, count, first);
    std::fill_n(scratch.max + at, count, kMinusInfinity);
    std::fill_n(scratch.total + at * kLanes, count * kLanes, 0.0f);
    for (std::int64_t q = at; q < at + count; ++q) {
      std::fill_n(scratch.sums[q], padded(layer_.value_width), 0.0f);
    }
  }

  void piece(const DecodeItem& item, std::int64_t head, Scratch& scratch) const {
    const std::int64_t value_width = padded(layer_.value_width);
    std::int64_t count = 0;
    for (std::int64_t r = item.row_start; r < item.row_stop; ++r, count += group_) {
      for (std::int64_t j = 0; j < group_; ++j) {
        scratch.sums[count + j] = record(r, item.rank, head * group_ + j);
      }
      start(group_, std::max<std::int64_t>(0, first_seen(r) - item.position), scratch, count);
    }
    gather({&item.slot, item.length, item.length}, item.row_start, head, count, scratch);
    for (std::int64_t q = 0; q < count; ++q) {
      scratch.sums[q][value_width] = added_up(scratch.total + q * kLanes);
      scratch.sums[q][value_width + 1] = scratch.max[q];
    }
  }

  void row(std::int64_t r, std::int64_t head, Scratch& scratch) const {
    const std::int64_t width = padded(layer_.value_width);
    for (std::int64_t j = 0; j < group_; ++j) scratch.sums[j] = scratch.own_sums + j * width;
    start(group_, std::max<std::int64_t>(0, first_seen(r) - plan_.prefix_lengths[r]), scratch, 0);
    const std::int64_t ranks = plan_.trunk_starts[r + 1] - plan_.trunk_starts[r];
    for (std::int64_t j = 0; j < group_; ++j) {
      merge({record(r, 0, head * group_ + j), ranks, layer_.query_heads * record_size(layer_), width},
            scratch.max[j], scratch.total[j * kLanes], scratch.sums[j]);
    }
    gather({plan_.block_table + r * plan_.table_stride, plan_.block_size, layer_.tail_lengths[r]}, r, head,
           group_, scratch);
    Element* out =
        static_cast<Element*>(layer_.out) + (r * layer_.query_heads + head * group_) * layer_.value_width;
    for (std::int64_t j = 0; j < group_; ++j, out += layer_.value_width) {
      const float total = added_up(scratch.total + j * kLanes);
      for (std::int64_t c = 0; c < layer_.value_width; ++c) round_to(scratch.sums[j][c] / total, out[c]);
    }
  }

  const DecodePlan& plan_;
  const DecodeLayer& layer_;
  float *scaled_, *partials_;
  std::int64_t group_;
  Scoring scoring_;
  std::atomic<std::int64_t> next_piece_{0}, pieces_done_{0}, next_row_{0};
};

template <class Element>
void decode_rows(const DecodePlan& plan, const DecodeLayer& layer, std::int64_t work, int num_threads) {
  // kept between calls, since allocating it would cost more than writing it
  thread_local std::vector<float> room;
  const std::int64_t scaled = plan.rows * layer.query_heads * padded(layer.width);
  const std::int64_t partials = plan.trunk_starts[plan.rows] * layer.query_heads * record_size(layer);
  if (static_cast<std::int64_t>(room.size()) < scaled + partials) room.resize(scaled + partials);
  Decode<Element> decode(plan, layer, room.data(), room.data() + scaled);
  decode.scale_queries();
  parallel_for(num_threads, work, num_threads, [&decode](std::int64_t, std::int64_t) { decode.work(); });
}

[[noreturn]] void refuse(const std::string& name, std::int64_t most, const std::string& what,
                         std::int64_t found, std::int64_t row) {
  throw std::invalid_argument("[tree_decode] " + name + ": expected " + what + std::to_string(most) +
                              ", got " + std::to_string(found) + " in row " + std::to_string(row));
}

// Checks that the tails are inside the pool and returns their number of tokens.
std::int64_t checked_tails(const DecodePlan& plan, const DecodeLayer& layer) {
  std::int64_t tokens = 0;
  const std::int64_t longest = plan.blocks * plan.block_size;
  for (std::int64_t r = 0; r < plan.rows; ++r) {
    const std::int64_t length = layer.tail_lengths[r];
    if (length < 1 || length > longest) refuse("tail_lengths", longest, "1 .. ", length, r);
    const std::int32_t* blocks = plan.block_table + r * plan.table_stride;
    for (std::int64_t b = 0; b * plan.block_size < length; ++b) {
      const std::int64_t last = layer.slots - std::min(plan.block_size, length - b * plan.block_size);
      if (blocks[b] < 0 || blocks[b] > last) refuse("plan.block_table", last, "slots 0 .. ", blocks[b], r);
    }
    tokens += length;
  }
  return tokens;
}

}  // namespace

void tree_decode_cpu(const DecodePlan& plan, const DecodeLayer& layer, int num_threads) {
  std::int64_t tokens = checked_tails(plan, layer);
  for (std::int64_t i = 0; i < plan.num_items; ++i) {
    const DecodeItem& item = plan.items[i];
    tokens += static_cast<std::int64_t>(item.length) * (item.row_stop - item.row_start);
  }
  const std::int64_t products = tokens * layer.query_heads * (layer.width + layer.value_width);
  if (layer.bf16) {
    decode_rows<Bf16>(plan, layer, products / kProductsAWork, num_threads);
  } else {
    decode_rows<float>(plan, layer, products / kProductsAWork, num_threads);
  }
}

}  // namespace fastrl
