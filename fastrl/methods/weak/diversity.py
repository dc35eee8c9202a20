"""Diversity of the strategies among the responses to one problem (arXiv 2604.18574, F.1)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from fastrl.methods.weak.judge import Judge, Reject
from fastrl.rewards.batch import mean

SameStrategy = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Diversity of one problem's responses; all values are 0 if there are none."""

    num_responses: int
    num_clusters: int
    """K."""
    entropy: float
    """H, in nats, of the clusters' relative sizes."""

    @property
    def evenness(self) -> float:
        """Return the paper's Div = (exp(H) - 1) / (K - 1); 0 if K <= 1.

        Any number of equal clusters has Div 1: it measures evenness, not their number.
        """
        return (math.exp(self.entropy) - 1) / (self.num_clusters - 1) if self.num_clusters > 1 else 0.0

    @property
    def log_clusters(self) -> float:
        """Return log K, the largest H of K clusters; 0 if K = 0."""
        return math.log(self.num_clusters) if self.num_clusters else 0.0

    @property
    def effective(self) -> float:
        """Return N_eff = exp(H), the number of equal clusters with the same entropy; 0 if K = 0."""
        return math.exp(self.entropy) if self.num_clusters else 0.0


def diversity(clusters: Sequence[int | None]) -> Diversity:
    """Compute H = - sum over clusters of p log p, with p the cluster's fraction of the responses.

    Args:
        clusters: each response's cluster; None excludes it.
    """
    counts = Counter(cluster for cluster in clusters if cluster is not None)
    total = counts.total()
    # log(total) - ... gives exactly 0 for one cluster
    entropy = math.log(total) - math.fsum(n * math.log(n) for n in counts.values()) / total if total else 0.0
    return Diversity(num_responses=total, num_clusters=len(counts), entropy=max(0.0, entropy))


def cluster(responses: Sequence[str], same_strategy: SameStrategy) -> list[int]:
    """Cluster greedily: a response joins the first cluster whose first member has the same strategy, or opens
    one. Calls same_strategy(representative, response) in that order and stops at the first match."""
    representatives: list[str] = []
    clusters = []
    for response in responses:
        own = next((k for k, one in enumerate(representatives) if same_strategy(one, response)), None)
        if own is None:
            own = len(representatives)
            representatives.append(response)
        clusters.append(own)
    return clusters


def judged_clusters(
    judge: Judge, problems: Sequence[str], groups: Sequence[Sequence[str | None]]
) -> tuple[list[list[int | None]], Counter[Reject]]:
    """Cluster many problems' responses as `cluster` does, with a judge as same_strategy.

    One batch compares the next response of every problem with all its representatives.

    Args:
        groups: each problem's responses; None skips one, such as an unfaithful response.
    Returns: clusters, and counts of unreadable replies. A response's cluster is None if it was skipped, or if
        it matched no representative and at least one reply was unreadable.
    """
    rejects: Counter[Reject] = Counter()
    clusters: list[list[int | None]] = [[] for _ in groups]
    representatives: list[list[str]] = [[] for _ in groups]
    for place in range(max(map(len, groups), default=0)):
        questions = [
            (number, one, text)
            for number, group in enumerate(groups)
            if place < len(group) and (text := group[place]) is not None
            for one in representatives[number]
        ]
        judged = judge.difference([problems[n] for n, _, _ in questions], [(a, b) for _, a, b in questions])
        rejects.update(judged.rejects)
        answers = iter(judged.labels)
        for number, group in enumerate(groups):
            if place >= len(group):
                continue
            text = group[place]
            if text is None:
                clusters[number].append(None)
                continue
            found = [next(answers) for _ in representatives[number]]
            new = all(label == "yes" for label in found)
            if new:
                representatives[number].append(text)
            clusters[number].append(len(found) if new else found.index("no") if "no" in found else None)
    return clusters, rejects


def named_clusters(
    names: Sequence[Hashable | None], chosen: Sequence[bool] | None = None
) -> list[int | None]:
    """Cluster responses by the name of their strategy.

    Args:
        names: each response's strategy; None excludes it.
        chosen: cluster only these responses, such as the faithful ones; None: all.
    """
    chosen = [True] * len(names) if chosen is None else chosen
    seen: dict[Hashable, int] = {}
    return [
        seen.setdefault(name, len(seen)) if name is not None and one else None
        for name, one in zip(names, chosen, strict=True)
    ]


def mean_diversity(found: Sequence[Diversity]) -> dict[str, float]:
    """Average over problems; a problem without a response counts as 0."""
    if not found:
        raise ValueError("[diversity] found: expected at least one problem, got none")
    names = ("num_responses", "num_clusters", "entropy", "evenness", "log_clusters", "effective")
    return {name: mean([float(getattr(one, name)) for one in found]) for name in names}
