"""prefix_tree in C++: a radix tree into which sequences are inserted one by one."""

from __future__ import annotations

import numpy as np

import fastrl._C as _C
from fastrl.kernels.prefix_tree.forest import Ints, PrefixForest


def prefix_tree_cpp(tokens: Ints, cu_seqlens: Ints) -> PrefixForest:
    num_sequences = len(cu_seqlens) - 1
    # the tree holds pointers into tokens, which must live until write returns
    tree = _C.PrefixTree.of(tokens.ctypes.data, cu_seqlens.ctypes.data, num_sequences)
    forest = PrefixForest(
        tokens=np.empty(tree.num_slots, dtype=np.int64),
        depths=np.empty(tree.num_slots, dtype=np.int64),
        starts=np.empty(tree.num_segments + 1, dtype=np.int64),
        parents=np.empty(tree.num_segments, dtype=np.int64),
        stops=np.empty(tree.num_segments, dtype=np.int64),
        ends=np.empty(num_sequences, dtype=np.int64),
        counts=np.empty(tree.num_segments, dtype=np.int64),
        slots=np.empty(len(tokens), dtype=np.int64),
    )
    tree.write(
        tokens=forest.tokens.ctypes.data,
        depths=forest.depths.ctypes.data,
        starts=forest.starts.ctypes.data,
        parents=forest.parents.ctypes.data,
        stops=forest.stops.ctypes.data,
        ends=forest.ends.ctypes.data,
        counts=forest.counts.ctypes.data,
        slots=forest.slots.ctypes.data,
    )
    return forest
