"""Definition of prefix_tree: a dictionary per node, one token at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fastrl.kernels.prefix_tree.forest import Ints, PrefixForest


def prefix_tree_reference(tokens: Ints, cu_seqlens: Ints) -> PrefixForest:
    children: list[dict[int, int]] = [{}]  # children of each node by token; node 0 is the parent of all roots
    visited: list[int] = []  # node of each input token
    last: list[int] = []  # last node of each sequence
    ids = tokens.tolist()
    for start, stop in pairwise(cu_seqlens.tolist()):
        node = 0
        for token in ids[start:stop]:
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
            node = children[node][token]
            visited.append(node)
        last.append(node)
    return _numbered(children, visited, last)


def _numbered(children: list[dict[int, int]], visited: list[int], last: list[int]) -> PrefixForest:
    tokens: list[int] = []
    depths: list[int] = []
    starts: list[int] = []
    parents: list[int] = []
    slot_of, segment_of = {}, {0: -1}
    ended = {0, *last}
    waiting = [(0, node, token, 0) for token, node in reversed(children[0].items())]
    while waiting:
        above, node, token, depth = waiting.pop()
        if len(children[above]) != 1 or above in ended:
            segment_of[node] = len(starts)
            starts.append(len(tokens))
            parents.append(segment_of[above])
        else:
            segment_of[node] = segment_of[above]
        slot_of[node] = len(tokens)
        tokens.append(token)
        depths.append(depth)
        waiting += [(node, child, token, depth + 1) for token, child in reversed(children[node].items())]
    ends = [segment_of[node] for node in last]
    stops, counts = _subtrees(parents, ends)
    columns = (tokens, depths, [*starts, len(tokens)], parents, stops, ends, counts)
    slots = [slot_of[node] for node in visited]
    return PrefixForest(*(np.asarray(column, dtype=np.int64) for column in (*columns, slots)))


def _subtrees(parents: list[int], ends: list[int]) -> tuple[list[int], list[int]]:
    """Return (stops, counts) of a PrefixForest."""
    stops = [segment + 1 for segment in range(len(parents))]
    counts = [0] * len(parents)
    for segment in ends:
        if segment >= 0:
            counts[segment] += 1
    for segment in reversed(range(len(parents))):
        above = parents[segment]
        if above >= 0:
            stops[above] = max(stops[above], stops[segment])
            counts[above] += counts[segment]
    return stops, counts
