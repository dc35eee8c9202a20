"""Drift guard: how far the trainer's log-probs are from those that the engine reported for its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastrl.runtime.distributed import Ranks

LIMIT = 20.0
"""Log-ratios are held to [-LIMIT, LIMIT], as in the loss."""
PER_DECADE, SMALLEST = 16, 1e-8
NUM_EDGES = math.ceil(PER_DECADE * math.log10(LIMIT / SMALLEST)) + 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
SUMS = ("tokens", "abs", "beyond", "k3", "w", "w2", "sequences", "W", "W2")


class Drift:
    """Sums over tokens of d = log p_trainer - log p_engine, on the device until they are asked for.

        w = exp(d);   W = exp(sum of d over a sequence)
        ess_tokens    = (sum w)^2 / (sum w^2 * tokens),   ess_sequences the same of W:  1 without drift
        share_beyond_2x = share of tokens with w > 2 or w < 1/2
        kl            = mean of w - 1 - d >= 0, an estimate of KL(engine || trainer), nats
        log_ratio     : of |d|, nats: mean, p50, p90, p99 from a histogram (at most 16 % too large), max

    Tokens that are left out of the loss (those without gradient), and those for which the engine gave no
    log-prob (NaN), are not counted. What is added twice counts as once where all is. Of a batch with
    rollout/staleness 1 (fastrl.training.ahead) d holds what one update changed, too.

    Source: effective sample size, Kong 1992; the estimate of the KL, joschu.net/blog/kl-approx.html (k3).
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        """[SUMS + NUM_EDGES] float64: the sums, and how many |d| are at most each edge."""
        self._most: Tensor | None = None

    def add(self, trainer: Tensor, engine: Tensor, counted: Tensor, cu_seqlens: Tensor) -> None:
        """Add one micro-batch; reads nothing from the device.

        Args:
            trainer: [T] log-probs before the step's first update, by the weights that the engine sampled with
                unless the batch is stale.
            engine: [T] log-probs that it reported.
            counted: [T] bool.
            cu_seqlens: [S+1] int32, where sequences start among the T.
        """
        difference = (trainer.detach() - engine).double()
        counted = counted & ~difference.isnan()
        d = torch.where(counted, difference.clamp(-LIMIT, LIMIT), 0.0)
        lengths = cu_seqlens.diff().long()
        # sums and counts that are the same in every run on a GPU too: no two threads add to one place
        inside = segment_sums(d, lengths).clamp(-LIMIT, LIMIT).exp()
        present = segment_sums(counted.double(), lengths) > 0
        size, weight = d.abs(), d.exp()
        tokens = (torch.ones_like(d), size, size > math.log(2), d.expm1() - d, weight, weight.square())
        sequences = (torch.ones_like(inside), inside, inside.square())
        ordered = torch.where(counted, size, math.inf).sort().values
        new = torch.cat(
            [
                *(torch.where(counted, each, 0.0).sum()[None] for each in tokens),
                *(torch.where(present, each, 0.0).sum()[None] for each in sequences),
                torch.searchsorted(ordered, edges(d.device), right=True).double(),
            ]
        )
        most = torch.cat([size, size.new_zeros(1)]).max()
        self._sums = new if self._sums is None else self._sums + new
        self._most = most if self._most is None else torch.maximum(self._most, most)

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Return drift/..., over all ranks; nothing if no token was counted. Reads the device once."""
        mine, own_most = [0.0] * (len(SUMS) + NUM_EDGES), 0.0
        if self._sums is not None and self._most is not None:
            *mine, own_most = torch.cat([self._sums, self._most[None]]).tolist()
        most = max(ranks.gather([own_most]))
        total = ranks.sum(mine)
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
            found[f"drift/log_ratio/{name}"] = min(most, quantile(at_most, share * tokens))
        return found | {"drift/log_ratio/max": most}


def segment_sums(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum the values of each sequence. unsafe: torch would read the lengths from the device to check them."""
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)


def edges(device: torch.device) -> Tensor:
    """[NUM_EDGES] float64 of |d|: from SMALLEST to LIMIT, PER_DECADE to a factor of ten."""
    powers = torch.arange(NUM_EDGES, dtype=torch.float64, device=device) / PER_DECADE
    return (SMALLEST * 10**powers).clamp(max=LIMIT)


def quantile(at_most: Sequence[float], wanted: float) -> float:
    """The first edge that so many tokens do not exceed."""
    place = next(place for place, count in enumerate(at_most) if count >= wanted)
    return float(min(LIMIT, SMALLEST * 10 ** (place / PER_DECADE)))
