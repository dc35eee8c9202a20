// Inserts sequences into a radix tree and writes the tree as segments.
#include "prefix_tree/prefix_tree.h"

#include <algorithm>
#include <cstring>

namespace fastrl {
namespace {

// Returns the length of the common prefix of a and b.
std::int64_t shared_length(const std::int64_t* a, const std::int64_t* b, std::int64_t count) {
  constexpr std::int64_t kBlock = 64;
  std::int64_t i = 0;
  while (i + kBlock <= count && std::memcmp(a + i, b + i, kBlock * sizeof(*a)) == 0) i += kBlock;
  while (i < count && a[i] == b[i]) ++i;
  return i;
}

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

}  // namespace

ChildTable::ChildTable(std::int64_t max_entries) {
  std::size_t size = 2;
  while (size < 2 * static_cast<std::size_t>(max_entries)) size *= 2;
  entries_.resize(size);
}

std::size_t ChildTable::find_entry(std::int64_t tail, std::int64_t token) const {
  const std::size_t last = entries_.size() - 1;
  std::size_t at = mix(mix(static_cast<std::uint64_t>(tail)) + static_cast<std::uint64_t>(token)) & last;
  while (entries_[at].node >= 0 && (entries_[at].tail != tail || entries_[at].token != token)) {
    at = (at + 1) & last;
  }
  return at;
}

std::int64_t ChildTable::find(std::int64_t tail, std::int64_t token) const {
  return entries_[find_entry(tail, token)].node;
}

void ChildTable::insert(std::int64_t tail, std::int64_t token, std::int64_t node) {
  entries_[find_entry(tail, token)] = {tail, token, node};
}

// A sequence adds at most two nodes: a leaf and the lower half of a split.
PrefixTree::PrefixTree(const std::int64_t* tokens, const std::int64_t* cu_seqlens, std::int64_t sequences)
    : cu_seqlens_(cu_seqlens), children_(2 * sequences) {
  nodes_.reserve(2 * sequences + 1);
  nodes_.push_back({tokens, 0, 0});
  ends_.reserve(sequences);
  for (std::int64_t i = 0; i < sequences; ++i) {
    ends_.push_back(insert(tokens + cu_seqlens[i], tokens + cu_seqlens[i + 1]));
  }
}

// Inserts a sequence and returns the tail at which it ends.
std::int64_t PrefixTree::insert(const std::int64_t* begin, const std::int64_t* end) {
  std::int64_t node = 0;
  while (begin < end) {
    const std::int64_t child = find_child(node, *begin);
    if (child < 0) return nodes_[add_leaf(node, begin, end)].tail;
    const Node& next = nodes_[child];
    const std::int64_t shared = shared_length(next.tokens, begin, std::min(next.length, end - begin));
    if (shared < next.length) split(child, shared);
    nodes_[node].recent_child = child;
    node = child;
    begin += shared;
  }
  return nodes_[node].tail;
}

std::int64_t PrefixTree::find_child(std::int64_t node, std::int64_t token) const {
  const std::int64_t recent = nodes_[node].recent_child;
  if (recent >= 0 && *nodes_[recent].tokens == token) return recent;
  return children_.find(nodes_[node].tail, token);
}

std::int64_t PrefixTree::add_leaf(std::int64_t above, const std::int64_t* begin, const std::int64_t* end) {
  const std::int64_t leaf = static_cast<std::int64_t>(nodes_.size());
  nodes_.push_back({begin, end - begin, leaf});
  num_slots_ += end - begin;
  Node& parent = nodes_[above];
  (parent.last_child < 0 ? parent.first_child : nodes_[parent.last_child].next_sibling) = leaf;
  parent.last_child = parent.recent_child = leaf;
  children_.insert(parent.tail, *begin, leaf);
  return leaf;
}

// `node` keeps its first `length` tokens and its parent; a new node below gets the rest, the tail and the
// children.
void PrefixTree::split(std::int64_t node, std::int64_t length) {
  const std::int64_t below = static_cast<std::int64_t>(nodes_.size());
  Node lower = nodes_[node];
  lower.tokens += length;
  lower.length -= length;
  lower.next_sibling = -1;
  nodes_.push_back(lower);
  Node& upper = nodes_[node];
  upper.length = length;
  upper.tail = below;
  upper.first_child = upper.last_child = upper.recent_child = below;
  children_.insert(upper.tail, *lower.tokens, below);
}

void PrefixTree::write(const PrefixForest& forest) const {
  const std::vector<std::int64_t> segment_of_tail = write_segments(forest);
  const std::int64_t sequences = static_cast<std::int64_t>(ends_.size());
  for (std::int64_t i = 0; i < sequences; ++i) {
    forest.ends[i] = segment_of_tail[ends_[i]];
    if (forest.ends[i] >= 0) ++forest.counts[forest.ends[i]];
    std::int64_t stop = cu_seqlens_[i + 1];
    for (std::int64_t s = forest.ends[i]; s >= 0; s = forest.parents[s]) {
      const std::int64_t first = forest.starts[s], length = forest.starts[s + 1] - first;
      stop -= length;
      for (std::int64_t k = 0; k < length; ++k) forest.slots[stop + k] = first + k;
    }
  }
  for (std::int64_t s = num_segments() - 1; s >= 0; --s) {
    const std::int64_t above = forest.parents[s];
    if (above < 0) continue;
    forest.stops[above] = std::max(forest.stops[above], forest.stops[s]);
    forest.counts[above] += forest.counts[s];
  }
}

// Writes tokens, depths, starts and parents in pre-order, and initialises stops[s] = s + 1 and counts[s] = 0.
// Returns the segment of each tail, -1 for that of node 0.
std::vector<std::int64_t> PrefixTree::write_segments(const PrefixForest& forest) const {
  struct Waiting {
    std::int64_t node, above, depth;
  };
  std::vector<std::int64_t> segment_of_tail(nodes_.size(), -1);
  std::vector<Waiting> stack;
  if (nodes_[0].first_child >= 0) stack.push_back({nodes_[0].first_child, -1, 0});
  std::int64_t segment = 0, slot = 0;
  for (; !stack.empty(); ++segment) {
    const Waiting at = stack.back();
    const Node& node = nodes_[at.node];
    stack.pop_back();
    if (node.next_sibling >= 0) stack.push_back({node.next_sibling, at.above, at.depth});
    if (node.first_child >= 0) stack.push_back({node.first_child, segment, at.depth + node.length});
    forest.starts[segment] = slot;
    forest.parents[segment] = at.above;
    forest.stops[segment] = segment + 1;
    forest.counts[segment] = 0;
    segment_of_tail[node.tail] = segment;
    std::copy(node.tokens, node.tokens + node.length, forest.tokens + slot);
    for (std::int64_t k = 0; k < node.length; ++k) forest.depths[slot + k] = at.depth + k;
    slot += node.length;
  }
  forest.starts[segment] = slot;
  return segment_of_tail;
}

}  // namespace fastrl
