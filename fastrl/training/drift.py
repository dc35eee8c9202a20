"""Drift guard: the difference between the trainer's log-probs and those that the engine reported."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrl.runtime.distributed import Ranks

LIMIT = 20.0
"""Log-ratios are clamped to [-LIMIT, LIMIT], as in the loss."""
PER_DECADE, SMALLEST = 16, 1e-8
NUM_EDGES = math.ceil(PER_DECADE * math.log10(LIMIT / SMALLEST)) + 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
SUMS = ("tokens", "abs", "beyond", "k3", "w", "w2", "sequences", "W", "W2")


class Drift:
    """Sums over tokens of d = log p_trainer - log p_engine, kept on the device until `metrics` is called.

        w = exp(d);   W = exp(sum of d over a sequence)
        ess_tokens    = (sum w)^2 / (sum w^2 * tokens);   ess_sequences: the same with W.   1 without drift
        share_beyond_2x = share of tokens with w > 2 or w < 1/2
        kl            = mean of w - 1 - d >= 0, an estimate of KL(engine || trainer), nats
        log_ratio     : |d| in nats: mean, p50, p90, p99 from a histogram (at most 16 % too large), max

    Tokens without gradient and tokens without an engine log-prob (NaN) are not counted. Adding the whole
    batch several times (one pass per epoch) changes no metric. With rollout/staleness 1
    (fastrl.training.ahead) d includes the change by one update.

    Source: effective sample size, Kong 1992; the estimate of the KL, joschu.net/blog/kl-approx.html (k3).
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        """[SUMS + NUM_EDGES] float64: the sums, then for each edge the number of |d| <= edge."""
        self._max: Tensor | None = None

    def add(self, trainer: Tensor, engine: Tensor, counted: Tensor, cu_seqlens: Tensor) -> None:
        """Add one micro-batch; no host sync.

        Args:
            trainer: [T] log-probs before the step's first update, with the weights that sampled the batch
                unless it is stale.
            engine: [T] log-probs that the engine reported.
            counted: [T] bool, tokens to count.
            cu_seqlens: [S+1] int32, offsets of the sequences.
        """
        difference = (trainer.detach() - engine).double()
        counted = counted & ~difference.isnan()
        d = torch.where(counted, difference.clamp(-LIMIT, LIMIT), 0.0)
        lengths = cu_seqlens.diff().long()
        # no atomic adds, so that the sums are reproducible on a GPU too
        inside = segment_sums(d, lengths).clamp(-LIMIT, LIMIT).exp()
        present = segment_sums(counted.double(), lengths) > 0
        size, weight = d.abs(), d.exp()
        tokens = (torch.ones_like(d), size, size > math.log(2), d.expm1() - d, weight, weight.square())
        sequences = (torch.ones_like(inside), inside, inside.square())
        ordered = torch.where(counted, size, math.inf).sort().values
        new = torch.cat(
            [
                *(torch.where(counted, terms, 0.0).sum()[None] for terms in tokens),
                *(torch.where(present, terms, 0.0).sum()[None] for terms in sequences),
                torch.searchsorted(ordered, edges(d.device), right=True).double(),
            ]
        )
        largest = torch.cat([size, size.new_zeros(1)]).max()
        self._sums = new if self._sums is None else self._sums + new
        self._max = largest if self._max is None else torch.maximum(self._max, largest)

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Return drift/... over all ranks; empty if no token was counted. Costs one host sync."""
        own_sums, own_max = [0.0] * (len(SUMS) + NUM_EDGES), 0.0
        if self._sums is not None and self._max is not None:
            *own_sums, own_max = torch.cat([self._sums, self._max[None]]).tolist()
        largest = max(ranks.gather([own_max]))
        total = ranks.sum(own_sums)
        summed, at_most = dict(zip(SUMS, total, strict=False)), total[len(SUMS) :]
        if not summed["tokens"]:
            return {}
        tokens, sequences = summed["tokens"], summed["sequences"]
        found = {
            "drift/ess_tokens": summed["w"] ** 2 / (summed["w2"] * tokens),
            "drift/ess_sequences": summed["W"] ** 2 / (summed["W2"] * sequences),
            "drift/share_beyond_2x": summed["beyond"] / tokens,
            "drift/kl": summed["k3"] / tokens,
            "drift/log_ratio/mean": summed["abs"] / tokens,
        }
        for name, share in QUANTILES.items():
            found[f"drift/log_ratio/{name}"] = min(largest, quantile(at_most, share * tokens))
        return found | {"drift/log_ratio/max": largest}


def segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum the values of each sequence. unsafe=True skips a check of the lengths that costs a host sync."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def edges(device: torch.device) -> Tensor:
    """Return the histogram's edges of |d|, [NUM_EDGES] float64: SMALLEST to LIMIT, PER_DECADE per decade."""
    powers = torch.arange(NUM_EDGES, dtype=torch.float64, device=device) / PER_DECADE
    return (SMALLEST * 10**powers).clamp(max=LIMIT)


def quantile(at_most: Sequence[float], wanted: float) -> float:
    """Return the first edge that at least `wanted` tokens do not exceed."""
    edge = next(edge for edge, count in enumerate(at_most) if count >= wanted)
    return float(min(LIMIT, SMALLEST * 10 ** (edge / PER_DECADE)))
