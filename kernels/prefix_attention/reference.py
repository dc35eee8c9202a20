"""The definition of prefix_attention: a dense mask, in float32 at least."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels.prefix_attention.layout import TreeLayout


def prefix_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: TreeLayout,
    scaling: float,
    softcap: float | None,
    window: int | None,
) -> Tensor:
    wide = torch.promote_types(query.dtype, torch.float32)
    shared_by = query.shape[1] // key.shape[1]
    keys, values = (each.to(wide).repeat_interleave(shared_by, dim=1) for each in (key, value))
    scores = torch.einsum("ihk,jhk->hij", query.to(wide), keys) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible(tree, window), float("-inf")).softmax(-1)
    return torch.einsum("hij,jhk->ihk", weights, values).to(value.dtype)


def visible(tree: TreeLayout, window: int | None) -> Tensor:
    """[M, M] bool, whether the token of a row sees the token of a column."""
    slots = torch.arange(tree.num_slots, device=tree.depths.device)
    sees = (slots <= slots[:, None]) & (slots[:, None] < tree.subtree_stop)
    if window is not None:
        sees &= tree.depths[:, None] - tree.depths < window
    return sees
