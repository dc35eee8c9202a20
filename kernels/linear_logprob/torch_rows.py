"""Row math in PyTorch on any device; in float64 for float64 logits."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fastrl.kernels._rows import RowScores, Tile

SHIFT_FLOOR = -64.0  # exp of less counts as 0, so that no gradient is subnormal


class TorchRows:
    def score(self, tile: Tile, scores: RowScores, vocab: int) -> None:
        z, own = make_z(tile), _own(tile)
        before = _begin(scores) if tile.first == 0 else scores
        largest = torch.maximum(before.max, z.max(-1).values.double())
        shift = torch.where(largest == -math.inf, 0, largest)
        scale = _exp(before.max - shift)
        moved = torch.where(scale == 0, 0, before.others * (before.max - shift))
        shifted = z - shift.to(z.dtype)[:, None]
        e = _exp(shifted).masked_fill(own, 0)
        outside = torch.zeros_like(own) if tile.floor is None else z < tile.floor[:, None]
        inside = e.masked_fill(outside, 0)
        others = inside.sum(-1, dtype=torch.float64)
        weighted = (inside * shifted.clamp(min=SHIFT_FLOOR)).sum(-1, dtype=torch.float64)
        scores.weighted.copy_(scale * (before.weighted + moved) + weighted)
        scores.excluded.copy_(scale * before.excluded + (e - inside).sum(-1, dtype=torch.float64))
        scores.others.copy_(scale * before.others + others)
        scores.sum_z.copy_(before.sum_z + z.sum(-1, dtype=torch.float64))
        scores.target.copy_(torch.where(own.any(-1), torch.where(own, z, -math.inf).amax(-1), before.target))
        scores.max.copy_(largest)
        if tile.first + z.shape[1] == vocab:
            _finish(scores, vocab)

    def gradient(
        self, tile: Tile, scores: RowScores, grad_logprobs: Tensor, grad_entropy: Tensor | None, out: Tensor
    ) -> None:
        z, own = make_z(tile), _own(tile)
        logprobs, entropy = scores.logprobs.to(z.dtype), scores.entropy.to(z.dtype)
        total = scores.others + (scores.target - scores.max).exp()
        shifted = z - scores.max.to(z.dtype)[:, None]
        p = _exp(shifted) / total.to(z.dtype)[:, None]
        if tile.floor is not None:
            p = p.masked_fill(z < tile.floor[:, None], 0)
        inner = -p * grad_logprobs[:, None]
        target = -grad_logprobs * torch.expm1(logprobs)
        if grad_entropy is not None:
            logp = shifted.clamp(min=SHIFT_FLOOR) - total.log().to(z.dtype)[:, None]
            inner = inner - p * grad_entropy[:, None] * (logp + entropy[:, None])
            target = target - grad_entropy * logprobs.exp() * (logprobs + entropy)
        inner = torch.where(own, target[:, None], inner)
        temperature = _column(tile.temperature)
        if tile.softcap is not None:
            inner = inner * (1 - (z * temperature / tile.softcap).square())
        active = grad_logprobs != 0 if grad_entropy is None else (grad_logprobs != 0) | (grad_entropy != 0)
        out.copy_(torch.where(active[:, None], inner * (tile.logit_scale / temperature), 0))

    def floors(self, tile: Tile, top_k: int, top_p: float) -> Tensor:
        z = make_z(tile)
        ranked = z.sort(dim=-1, descending=True).values
        if 0 < top_k < z.shape[1]:
            ranked = ranked.masked_fill(ranked < ranked[:, top_k - 1 : top_k], -math.inf)
        mass = ranked.softmax(-1, dtype=torch.float64)
        kept = (mass.cumsum(-1) - mass < top_p) & (ranked > -math.inf)
        lowest = torch.where(kept, ranked, math.inf).amin(-1)
        below = torch.where(z < lowest[:, None], z, -math.inf).amax(-1)
        middle = below + (lowest - below) / 2
        return torch.where(middle > below, middle, torch.where(below == -math.inf, below, lowest))


def make_z(tile: Tile) -> Tensor:
    """Return z in a new float32 or float64 tensor."""
    z = tile.logits.to(torch.promote_types(tile.logits.dtype, torch.float32), copy=True)
    if tile.bias is not None:
        z += tile.bias[tile.first : tile.first + z.shape[1]].to(z.dtype)
    if tile.softcap is None:
        z *= tile.logit_scale
    else:
        z.mul_(tile.logit_scale / tile.softcap).tanh_().mul_(tile.softcap)
    return z.div_(_column(tile.temperature))


def _column(temperature: float | Tensor) -> float | Tensor:
    return temperature[:, None] if isinstance(temperature, Tensor) else temperature


def _own(tile: Tile) -> Tensor:
    """Return [n, width] bool, True at each row's own id."""
    columns = torch.arange(tile.first, tile.first + tile.logits.shape[1], device=tile.ids.device)
    return columns == tile.ids[:, None]


def _begin(scores: RowScores) -> RowScores:
    zero = torch.zeros_like(scores.max)
    lowest = torch.full_like(zero, -math.inf)
    return dataclasses.replace(
        scores, max=lowest, others=zero, excluded=zero, weighted=zero, sum_z=zero, target=lowest
    )


def _finish(scores: RowScores, vocab: int) -> None:
    shifted = scores.target - scores.max
    own = shifted.exp()
    total = scores.others + own
    # log1p(others) keeps what 1 + others would round away
    log_total = torch.where(shifted == 0, scores.others.log1p(), total.log())
    weighted = scores.weighted + torch.where(own == 0, 0, own * shifted)
    everything = torch.where(
        shifted == 0, (scores.others + scores.excluded).log1p(), (total + scores.excluded).log()
    )
    scores.total.copy_(total)
    scores.logprobs.copy_(shifted - log_total)
    scores.entropy.copy_(log_total - weighted / total)
    scores.self_certainty.copy_(everything + scores.max - scores.sum_z / vocab - math.log(vocab))
    scores.top1.copy_(scores.target >= scores.max)


def _exp(shifted: Tensor) -> Tensor:
    return torch.where(shifted < SHIFT_FLOOR, 0, shifted.exp())
