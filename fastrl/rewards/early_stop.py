"""Which rollouts' continuations need not go on, because the order of their group is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


class GroupOrder:
    """Of each rollout, how many continuations were right, wrong, or are still open.

        right / total <= reward <= (right + open) / total

    A rollout is settled when its interval lies wholly above or below that of every other one of its group.
    Then right / (right + wrong) lies in its interval too: cancelling what is open changes its reward, and not
    its place in the group.
    """

    def __init__(self, groups: Sequence[int], totals: Sequence[int]) -> None:
        """groups: [rollouts] the group of each; totals: [rollouts] continuations asked for."""
        self.totals, self.right = list(totals), [0] * len(totals)
        self.open = list(totals)
        self._cancelled = [False] * len(totals)
        self._members: dict[int, list[int]] = defaultdict(list)
        for rollout, group in enumerate(groups):
            self._members[group].append(rollout)
        self._group = list(groups)

    def tell(self, rollout: int, correct: bool) -> None:
        """One of the rollout's continuations has ended."""
        self.open[rollout] -= 1
        self.right[rollout] += correct

    def newly_settled(self, rollouts: Sequence[int]) -> list[int]:
        """Rollouts of these rollouts' groups whose open continuations can't change the order; each once."""
        groups = sorted({self._group[rollout] for rollout in rollouts})
        found = [r for group in groups for r in self._members[group] if self._can_be_cancelled(r)]
        for rollout in found:
            self._cancelled[rollout] = True
        return found

    def _can_be_cancelled(self, rollout: int) -> bool:
        begun = self.open[rollout] < self.totals[rollout]  # with nothing ended there is no reward to give
        if self._cancelled[rollout] or not self.open[rollout] or not begun:
            return False
        others = [other for other in self._members[self._group[rollout]] if other != rollout]
        return bool(others) and all(self._apart(rollout, other) for other in others)

    def _apart(self, a: int, b: int) -> bool:
        (low_a, high_a), (low_b, high_b) = self._interval(a), self._interval(b)
        return high_a < low_b or high_b < low_a

    def _interval(self, rollout: int) -> tuple[float, float]:
        right, total = self.right[rollout], self.totals[rollout]
        if self._cancelled[rollout]:  # its reward is what it will be
            reward = right / (total - self.open[rollout])
            return reward, reward
        return right / total, (right + self.open[rollout]) / total
