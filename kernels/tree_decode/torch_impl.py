"""tree_decode in PyTorch on any device: a matrix product per piece, then the padded tails."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels.tree_decode.plan import DecodePlan


class _OnlineSoftmax:
    """Online softmax: the largest score of each query so far, and sums over exp(score - max)."""

    def __init__(self, num_rows: int, heads: int, group: int, value_width: int, like: Tensor) -> None:
        self.max = like.new_full((num_rows, heads, group), -torch.inf)
        self.total = torch.zeros_like(self.max)
        self.sums = like.new_zeros(num_rows, heads, group, value_width)

    def add(self, rows: slice, scores: Tensor, values: Tensor) -> None:
        """Add scores [rows, Hkv, g, L] with values [Hkv, L, Kv] or, per row, [rows, Hkv, L, Kv]."""
        new_max = torch.maximum(self.max[rows], scores.amax(-1))
        shift = torch.where(new_max == -torch.inf, torch.zeros_like(new_max), new_max)
        weights, factor = torch.exp(scores - shift[..., None]), torch.exp(self.max[rows] - shift)
        self.total[rows] = self.total[rows] * factor + weights.sum(-1)
        self.sums[rows] = self.sums[rows] * factor[..., None] + _by_head(weights, values)
        self.max[rows] = new_max


def tree_decode_torch(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: DecodePlan,
    tail_lengths: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    num_rows, query_heads, width = query.shape
    heads, value_width = values.shape[1:]
    wide = torch.promote_types(query.dtype, torch.float32)
    queries = (query.to(wide) * scaling).view(num_rows, heads, query_heads // heads, width)
    softmax = _OnlineSoftmax(num_rows, heads, query_heads // heads, value_width, queries)
    device = query.device
    prefixes = torch.from_numpy(plan.prefix_lengths).to(device)
    first_seen = prefixes * 0 if window is None else prefixes + tail_lengths - window

    for slot, length, start, stop, position, _ in plan.pieces.tolist():
        rows, piece = slice(start, stop), slice(slot, slot + length)
        scores = _capped(_by_head(queries[rows], keys[piece].to(wide).permute(1, 2, 0)), softcap)
        mixed = values[piece].to(wide)
        if window is not None:
            at = torch.arange(position, position + length, device=device)
            hidden = at < first_seen[rows, None]
            scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
            mixed = mixed.masked_fill(hidden.all(0)[:, None, None], 0)  # what no row sees may be NaN
        softmax.add(rows, scores, mixed.transpose(0, 1))
    if num_rows:
        slots, hidden = _tail_slots(plan, tail_lengths, first_seen - prefixes)
        scores = _capped(_by_head(queries, keys[slots].to(wide).permute(0, 2, 3, 1)), softcap)
        scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
        softmax.add(slice(None), scores, values[slots].to(wide).transpose(1, 2))
    out = softmax.sums / softmax.total[..., None]
    return out.reshape(num_rows, query_heads, value_width).to(query.dtype)


def _by_head(left: Tensor, right: Tensor) -> Tensor:
    """Multiply [rows, Hkv, g, A] by [Hkv, A, B] or [rows, Hkv, A, B] -> [rows, Hkv, g, B]."""
    if right.dim() == 4:
        return left @ right
    rows, heads, group, inner = left.shape
    product = left.transpose(0, 1).reshape(heads, rows * group, inner) @ right
    return product.view(heads, rows, group, -1).transpose(0, 1)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _tail_slots(plan: DecodePlan, tail_lengths: Tensor, first_seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the slots of the tails' tokens [R, L], and a mask of hidden ones, which repeat a real token."""
    longest = int(tail_lengths.max())  # a host sync, which the kernels avoid
    token = torch.arange(longest, device=tail_lengths.device)
    hidden = (token >= tail_lengths[:, None]) | (token < first_seen[:, None])
    own = torch.where(hidden, tail_lengths[:, None].long() - 1, token)
    return plan.block_table.long().gather(1, own // plan.block_size) + own % plan.block_size, hidden
