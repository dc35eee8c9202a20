"""How many different ways to the answer the responses to one problem take (arXiv 2604.18574, F.1)."""

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
    """Of one problem's responses; all 0 where there are none."""

    num_responses: int
    num_clusters: int
    """K."""
    entropy: float
    """H, nats, of the clusters' shares."""

    @property
    def evenness(self) -> float:
        """Div = (exp(H) - 1) / (K - 1), the paper's; 0 where K <= 1. Two equal clusters have 1, as sixteen
        have: it says how even they are, not how many."""
        return (math.exp(self.entropy) - 1) / (self.num_clusters - 1) if self.num_clusters > 1 else 0.0

    @property
    def log_clusters(self) -> float:
        """log K, the largest H that K clusters can have."""
        return math.log(self.num_clusters) if self.num_clusters else 0.0

    @property
    def effective(self) -> float:
        """N_eff = exp(H): how many clusters of equal size would be as diverse."""
        return math.exp(self.entropy) if self.num_clusters else 0.0


def diversity(clusters: Sequence[int | None]) -> Diversity:
    """H = - sum over clusters of p log p, p = share of the responses.

    Args:
        clusters: each response's cluster; None: it is not counted.
    """
    counts = Counter(cluster for cluster in clusters if cluster is not None)
    total = counts.total()
    # log(total) - ..., so that one cluster has exactly 0
    entropy = math.log(total) - math.fsum(n * math.log(n) for n in counts.values()) / total if total else 0.0
    return Diversity(num_responses=total, num_clusters=len(counts), entropy=max(0.0, entropy))


def cluster(responses: Sequence[str], same_strategy: SameStrategy) -> list[int]:
    """Greedy clusters: a response joins the first cluster whose first member has the same strategy, or else
    begins one. same_strategy(representative, response) is asked in this order, and no more than needed."""
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
    """cluster(), with a judge, of many problems' responses at once: the next response of every problem is
    compared with all of its representatives in one batch.

    Args:
        groups: each problem's responses; None: one that is passed over, as an unfaithful one.
    Returns: clusters, and replies that could not be read. A response has None also where the judge called it
        the same as no representative, and of one said nothing that can be read.
    """
    rejects: Counter[Reject] = Counter()
    clusters: list[list[int | None]] = [[] for _ in groups]
    representatives: list[list[str]] = [[] for _ in groups]
    for place in range(max(map(len, groups), default=0)):
        asked = [
            (number, one, text)
            for number, group in enumerate(groups)
            if place < len(group) and (text := group[place]) is not None
            for one in representatives[number]
        ]
        judged = judge.difference([problems[n] for n, _, _ in asked], [(a, b) for _, a, b in asked])
        rejects.update(judged.rejects)
        answers = iter(judged.labels)
        for number, group in enumerate(groups):
            if place >= len(group):
                continue
            text = group[place]
            if text is None:
                clusters[number].append(None)
                continue
            said = [next(answers) for _ in representatives[number]]
            new = all(label == "yes" for label in said)
            if new:
                representatives[number].append(text)
            clusters[number].append(len(said) if new else said.index("no") if "no" in said else None)
    return clusters, rejects


def named_clusters(
    names: Sequence[Hashable | None], chosen: Sequence[bool] | None = None
) -> list[int | None]:
    """Equal names are one cluster.

    Args:
        names: of each response's strategy; None: it is not counted.
        chosen: cluster these alone, as the faithful ones.
    """
    chosen = [True] * len(names) if chosen is None else chosen
    seen: dict[Hashable, int] = {}
    return [
        seen.setdefault(name, len(seen)) if name is not None and one else None
        for name, one in zip(names, chosen, strict=True)
    ]


def mean_diversity(found: Sequence[Diversity]) -> dict[str, float]:
    """Means over problems; problems without a response are part of them, as 0."""
    if not found:
        raise ValueError("[diversity] found: expected at least one problem, got none")
    names = ("num_responses", "num_clusters", "entropy", "evenness", "log_clusters", "effective")
    return {name: mean([float(getattr(one, name)) for one in found]) for name in names}
