"""Time prefix_tree: C++ against the reference, on trees of rollouts and on worst cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.harness import arguments, compare, finish, show
from fastrl.ops import prefix_tree

VOCAB = 32_000
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """Trees as (shared prefix, branches after it)."""

    name: str
    trees: list[tuple[Ints, list[Ints]]]

    def sequences(self) -> list[Ints]:
        return [np.concatenate((prompt, branch)) for prompt, branches in self.trees for branch in branches]


def cut_rollouts(
    prompts: int, length: int = 512, group: int = 8, rollout: int = 2048, cuts: int = 4
) -> Shape:
    rng = np.random.default_rng(0)
    trees = []
    for _ in range(prompts):
        rollouts = rng.integers(0, VOCAB, (group, rollout))
        ends = [rollout * k // (cuts + 1) for k in range(1, cuts + 1)]
        trees.append((rng.integers(0, VOCAB, length), [tokens[:end] for tokens in rollouts for end in ends]))
    return Shape(f"{prompts} prompts of {length}, {group} rollouts of {rollout}, {cuts} cuts", trees)


def unrelated(count: int, mean: int) -> Shape:
    rng = np.random.default_rng(1)
    lengths = np.maximum(1, rng.lognormal(np.log(mean), 0.5, count).astype(int))
    rows = [rng.integers(0, VOCAB, length) for length in lengths]
    return Shape(f"{count} unrelated sequences of about {mean}", [(np.zeros(1, dtype=np.int64), rows)])


def chain(length: int, cuts: int) -> Shape:
    """Return one path of `length` tokens; a sequence ends at each of its last `cuts` tokens."""
    tokens = np.random.default_rng(2).integers(0, VOCAB, length)
    branches = [tokens[1:stop] for stop in range(length - cuts + 1, length + 1)]
    return Shape(f"a chain of {length}, cut at each of its last {cuts} tokens", [(tokens[:1], branches)])


def short(count: int) -> Shape:
    rows = list(np.random.default_rng(3).integers(0, VOCAB, (count, 2)))
    return Shape(f"{count} sequences of 3 tokens", [(np.zeros(1, dtype=np.int64), rows)])


def providers(shape: Shape) -> tuple[dict[str, Callable[[], int]], int]:
    """Return (providers, number of input tokens); a provider builds the tree and returns its slot count."""
    sequences = shape.sequences()
    lists = [sequence.tolist() for sequence in sequences]
    tokens = np.concatenate(sequences)
    bounds = np.concatenate(([0], np.cumsum([len(sequence) for sequence in sequences])))
    return {
        "cpp": lambda: prefix_tree((tokens, bounds), backend="cpp").num_slots,
        "cpp, token lists": lambda: prefix_tree(lists, backend="cpp").num_slots,
        "reference": lambda: prefix_tree((tokens, bounds), backend="reference").num_slots,
    }, len(tokens)


def main() -> None:
    given = arguments("prefix_tree")
    shapes = [cut_rollouts(2, rollout=256)] if given.small else [
        cut_rollouts(64), unrelated(1024, 512), chain(2000, 2000), chain(1_000_000, 4), short(100_000),
    ]  # fmt: skip
    results: list[dict[str, object]] = []
    for shape in shapes:
        run, num_tokens = providers(shape)
        slots = {name: provider() for name, provider in run.items()}
        if len(set(slots.values())) != 1:
            raise SystemExit(f"[bench] {shape.name}: expected the same slots from all, got {slots}")
        rows = compare(run, given.rounds)
        show(f"{shape.name}: {num_tokens} tokens, {slots['cpp']} slots", rows, num_tokens / 1e6, "M tokens")
        results += [
            {"shape": shape.name, "num_tokens": num_tokens, "num_slots": slots["cpp"], "provider": name} | row
            for name, row in rows.items()
        ]
    finish("prefix_tree", results, given.out)


if __name__ == "__main__":
    main()
