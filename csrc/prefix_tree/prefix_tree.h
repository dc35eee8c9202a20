// Sequences merged into the trie of their prefixes, as segments. The arrays are described in
// kernels/prefix_tree/forest.py, PrefixForest.
#pragma once

#include <cstdint>
#include <vector>

namespace fastrl {

// M slots, n segments, S sequences, N input tokens.
struct PrefixForest {
  std::int64_t* tokens;   // [M]
  std::int64_t* depths;   // [M]
  std::int64_t* starts;   // [n + 1]
  std::int64_t* parents;  // [n]
  std::int64_t* stops;    // [n]
  std::int64_t* ends;     // [S]
  std::int64_t* counts;   // [n]
  std::int64_t* slots;    // [N]
};

// Hash table of child nodes by (tail of the parent, first token); open addressing, at most half full.
class ChildTable {
 public:
  explicit ChildTable(std::int64_t max_entries);
  std::int64_t find(std::int64_t tail, std::int64_t token) const;  // -1: none
  void insert(std::int64_t tail, std::int64_t token, std::int64_t node);

 private:
  struct Entry {
    std::int64_t tail, token;
    std::int64_t node = -1;
  };
  std::size_t find_entry(std::int64_t tail, std::int64_t token) const;
  std::vector<Entry> entries_;
};

class PrefixTree {
 public:
  // cu_seqlens: [sequences + 1]. Both arrays must outlive the tree.
  PrefixTree(const std::int64_t* tokens, const std::int64_t* cu_seqlens, std::int64_t sequences);

  std::int64_t num_slots() const { return num_slots_; }
  std::int64_t num_segments() const { return static_cast<std::int64_t>(nodes_.size()) - 1; }
  void write(const PrefixForest& forest) const;

 private:
  // A run of tokens. `tail` identifies its children, so that a split passes them on in one store.
  struct Node {
    const std::int64_t* tokens;
    std::int64_t length;
    std::int64_t tail;
    std::int64_t first_child = -1;
    std::int64_t last_child = -1;
    std::int64_t next_sibling = -1;
    std::int64_t recent_child = -1;  // the child that the last sequence visited
  };

  std::int64_t insert(const std::int64_t* begin, const std::int64_t* end);
  std::int64_t find_child(std::int64_t node, std::int64_t token) const;
  std::int64_t add_leaf(std::int64_t above, const std::int64_t* begin, const std::int64_t* end);
  void split(std::int64_t node, std::int64_t length);
  std::vector<std::int64_t> write_segments(const PrefixForest& forest) const;

  const std::int64_t* cu_seqlens_;
  std::int64_t num_slots_ = 0;
  std::vector<Node> nodes_;         // node 0 is the parent of all roots
  std::vector<std::int64_t> ends_;  // [sequences] tails
  ChildTable children_;
};

}  // namespace fastrl
