"""Inputs shared by the engine's tests."""

from __future__ import annotations

import torch

from fastrl.types import Branch, PrefixTree

CPU = torch.device("cpu")


def ids(generator: torch.Generator, length: int) -> list[int]:
    return torch.randint(4, 260, (length,), generator=generator).tolist()


def ragged_trees(seed: int, num_trees: int = 3) -> list[PrefixTree]:
    """Trees with an empty branch, nested cuts, a fork in mid-path, a repeated branch, uneven budgets."""
    g = torch.Generator().manual_seed(seed)
    trees = []
    for t in range(num_trees):
        trunk = ids(g, 13 + t)
        fork = trunk[:6] + ids(g, 5)
        branches = [(), trunk[:4], trunk[:9], trunk, fork, trunk[:4], fork[:8], ids(g, 1)]
        trees.append(
            PrefixTree(
                prompt_ids=ids(g, 1 + 4 * t),
                branches=[
                    Branch(
                        token_ids=b, num_samples=1 + i % 3, max_new_tokens=3 + (5 * i) % 11, seed=9 * t + i
                    )
                    for i, b in enumerate(branches)
                ],
            )
        )
    return trees
