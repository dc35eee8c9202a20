"""Order of problems: a pure function of the draw's number, so that one integer is a position in the data."""

from __future__ import annotations

import random

from fastrl.runtime.seeding import seed_of


class ProblemOrder:
    """Sequence of problem indices: each epoch visits every problem once, in an order of its own.

        order[i] = permutation(seed, i // num_problems)[i % num_problems]

    Args:
        num_problems: >= 1.
        seed: different seeds give unrelated orders.
    """

    def __init__(self, num_problems: int, seed: int) -> None:
        if num_problems < 1:
            raise ValueError(f"[data] num_problems: expected >= 1, got {num_problems}")
        self.num_problems = num_problems
        self.seed = seed
        self._epoch = -1
        self._permutation: list[int] = []

    def __getitem__(self, draw: int) -> int:
        if draw < 0:
            raise IndexError(f"[data] draw: expected >= 0, got {draw}")
        epoch, place = divmod(draw, self.num_problems)
        if epoch != self._epoch:
            self._permutation = self._shuffled(epoch)
            self._epoch = epoch
        return self._permutation[place]

    def take(self, start: int, count: int) -> list[int]:
        """Return the problem indices of draws start, ..., start + count - 1."""
        return [self[draw] for draw in range(start, start + count)]

    def _shuffled(self, epoch: int) -> list[int]:
        # sort by random(): the only method whose values Python keeps the same between versions
        draw = random.Random(seed_of(self.seed, "order", epoch)).random
        keys = [draw() for _ in range(self.num_problems)]
        return sorted(range(self.num_problems), key=keys.__getitem__)
