"""Definition of prefix_attention: a dense mask, at least in float32."""

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
    group = query.shape[1] // key.shape[1]
    keys, values = (x.to(wide).repeat_interleave(group, dim=1) for x in (key, value))
    scores = torch.einsum("ihk,jhk->hij", query.to(wide), keys) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~visible(tree, window), float("-inf")).softmax(-1)
    return torch.einsum("hij,jhk->ihk", weights, values).to(value.dtype)


def visible(tree: TreeLayout, window: int | None) -> Tensor:
    """Return [M, M] bool, True if the token of a row sees the token of a column."""
    slots = torch.arange(tree.num_slots, device=tree.depths.device)
    sees = (slots <= slots[:, None]) & (slots[:, None] < tree.subtree_stop)
    if window is not None:
        sees &= tree.depths[:, None] - tree.depths < window
    return sees
