"""Attention over packed sequences, for any model in transformers' attention registry.

A packed row [1, H, N, K] holds S sequences end to end. Each attends to itself alone, causally:
`sdpa` lifts the sequences into [S, H, L, K] for the attention and back; `flex` masks by sequence number;
`flash` is transformers' own flash_attention_2, which takes cu_seqlens as it is; `prefix` takes a forest whose
sequences share their beginnings, and alone can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from fastrl.policy.packing import PackedBatch
from fastrl.policy.prefix_attention import PREFIX, refuse_unsupported

SDPA, FLEX, FLASH = "fastrl_sdpa", "fastrl_flex", "flash_attention_2"


def attention_kwargs(implementation: str, batch: PackedBatch) -> dict[str, Any]:
    """What travels through model.forward down to the attention function."""
    if implementation == PREFIX:
        return {"prefix_layout": batch.tree}
    if implementation == FLASH:
        bounds = unshared(batch)
        lengths = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        return lengths | {"max_length_q": batch.max_seqlen, "max_length_k": batch.max_seqlen}
    if implementation == FLEX:
        return {"packed_block_mask": block_mask(batch)}
    return {"packed_layout": padded_layout(batch)}


def unshared(batch: PackedBatch) -> Tensor:
    """cu_seqlens of a batch in which every sequence has all of its tokens."""
    if batch.cu_seqlens is None:
        raise ValueError("[model] attention: expected prefix where sequences share tokens, got another one")
    return batch.cu_seqlens


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """Where N packed tokens stand among S x L places, L the longest sequence."""

    shape: tuple[int, int]
    """(S, L)."""
    lift: Tensor
    """[S*L] the token at each place; token 0 where there is none."""
    drop: Tensor
    """[N] the place of each token."""
    vacant: Tensor
    """[S*L] bool, places without a token."""


def padded_layout(batch: PackedBatch) -> PaddedLayout:
    starts = unshared(batch)[:-1].long()
    tokens = torch.arange(batch.num_tokens, device=starts.device)
    drop = (torch.bucketize(tokens, starts, right=True) - 1) * batch.max_seqlen + batch.position_ids
    places = len(starts) * batch.max_seqlen
    lift = torch.zeros(places, dtype=torch.long, device=starts.device)
    vacant = torch.ones(places, dtype=torch.bool, device=starts.device)
    lift[drop], vacant[drop] = tokens, False
    return PaddedLayout((len(starts), batch.max_seqlen), lift, drop, vacant)


def block_mask(batch: PackedBatch) -> Any:
    """FlexAttention's mask: causal, and within one sequence."""
    from torch.nn.attention.flex_attention import create_block_mask

    starts = unshared(batch)[:-1].long()
    document = torch.bucketize(torch.arange(batch.num_tokens, device=starts.device), starts, right=True)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (document[q] == document[k])

    return create_block_mask(
        visible, None, None, batch.num_tokens, batch.num_tokens, device=str(starts.device)
    )


def sdpa_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, packed_layout: PaddedLayout, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, softcap: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    refuse_unsupported(kwargs)
    layout, length = packed_layout, packed_layout.shape[1]
    q, k, v = (lift(tensor[0].transpose(0, 1), layout).transpose(1, 2) for tensor in (query, key, value))
    if softcap is None and (sliding_window is None or sliding_window >= length):
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
    else:
        out = plain_attention(q, k, v, scaling, sliding_window, softcap)
    return drop(out.transpose(1, 2).flatten(0, 1), layout).unsqueeze(0), None


# Indexing would accumulate its gradient token by token; these two are each other's gradient, plain copies.
class Lift(torch.autograd.Function):
    """[N, ...] -> [S*L, ...]. What vacant places hold never reaches a token: attention is causal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: PaddedLayout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.lift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.layout.drop), None


class Drop(torch.autograd.Function):
    """[S*L, ...] -> [N, ...]. Vacant places get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: PaddedLayout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.drop)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        lifted = grad.index_select(0, ctx.layout.lift)
        return lifted.masked_fill_(ctx.layout.vacant[:, None, None], 0), None


def lift(x: Tensor, layout: PaddedLayout) -> Tensor:
    """[N, ...] -> [S, L, ...]."""
    lifted: Tensor = Lift.apply(x, layout)  # type: ignore[no-untyped-call]
    return lifted.view(*layout.shape, *x.shape[1:])


def drop(x: Tensor, layout: PaddedLayout) -> Tensor:
    """[S*L, ...] -> [N, ...]."""
    dropped: Tensor = Drop.apply(x, layout)  # type: ignore[no-untyped-call]
    return dropped


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """out = softmax(softcap * tanh(q k^T scaling / softcap) + causal window) v, in fp32."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    scores = (q @ k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    place = torch.arange(q.shape[2], device=q.device)
    behind = place[:, None] - place[None, :]
    visible = (behind >= 0) & (behind < (window or q.shape[2]))
    return scores.masked_fill(~visible, float("-inf")).softmax(-1).to(v.dtype) @ v


@cache
def compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, packed_block_mask: Any, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, softcap: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    refuse_unsupported(kwargs)
    if softcap is not None or sliding_window is not None or dropout:
        raise ValueError(
            "[model] attention: flex takes no soft-cap, window or dropout, and this model has one; use sdpa"
        )
    grouped = query.shape[1] != key.shape[1]
    out = compiled_flex()(query, key, value, block_mask=packed_block_mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The packed layout says who sees whom; transformers builds no mask."""


AttentionInterface.register(SDPA, sdpa_attention)
AttentionInterface.register(FLEX, flex_attention)
AttentionMaskInterface.register(SDPA, _no_mask)
AttentionMaskInterface.register(FLEX, _no_mask)
