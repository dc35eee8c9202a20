"""Attention over packed sequences, for any model in transformers' attention registry.

A packed batch [1, H, N, K] holds S sequences end to end; each attends causally, only to itself. `sdpa` pads
the sequences to [S, H, L, K] for the attention; `flex` masks by sequence; `flash` is transformers' own
flash_attention_2 with cu_seqlens; `prefix` is the only one that takes sequences with shared prefixes.
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
    """Return the keyword arguments that model.forward passes down to the attention function."""
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
    """Return the cu_seqlens of a batch without shared prefixes."""
    if batch.cu_seqlens is None:
        raise ValueError("[model] attention: expected prefix if sequences share tokens, got another one")
    return batch.cu_seqlens


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """Indices between N packed tokens and a padded batch of S x L positions, L the longest sequence."""

    shape: tuple[int, int]
    """(S, L)."""
    tokens: Tensor
    """[S*L] packed index of the token at each position; 0 at padding."""
    positions: Tensor
    """[N] padded position of each token."""
    padding: Tensor
    """[S*L] bool, positions without a token."""


def padded_layout(batch: PackedBatch) -> PaddedLayout:
    """Return the padded layout of a packed batch."""
    starts = unshared(batch)[:-1].long()
    packed = torch.arange(batch.num_tokens, device=starts.device)
    positions = (torch.bucketize(packed, starts, right=True) - 1) * batch.max_seqlen + batch.position_ids
    size = len(starts) * batch.max_seqlen
    tokens = torch.zeros(size, dtype=torch.long, device=starts.device)
    padding = torch.ones(size, dtype=torch.bool, device=starts.device)
    tokens[positions], padding[positions] = packed, False
    return PaddedLayout((len(starts), batch.max_seqlen), tokens, positions, padding)


def block_mask(batch: PackedBatch) -> Any:
    """Return FlexAttention's block mask: causal, within each sequence."""
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
    """Return packed attention [1, N, Hq, K], computed on padded sequences."""
    refuse_unsupported(kwargs)
    layout, length = packed_layout, packed_layout.shape[1]
    q, k, v = (pad(tensor[0].transpose(0, 1), layout).transpose(1, 2) for tensor in (query, key, value))
    if softcap is None and (sliding_window is None or sliding_window >= length):
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
    else:
        out = plain_attention(q, k, v, scaling, sliding_window, softcap)
    return unpad(out.transpose(1, 2).flatten(0, 1), layout).unsqueeze(0), None


# The backward of plain indexing would accumulate with atomics; each of these is the other's backward, a copy.
class Pad(torch.autograd.Function):
    """[N, ...] -> [S*L, ...]. Padding comes after each sequence, so causal attention never reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: PaddedLayout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.layout.positions), None


class Unpad(torch.autograd.Function):
    """[S*L, ...] -> [N, ...]. Padding gets gradient 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: PaddedLayout) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.positions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        padded = grad.index_select(0, ctx.layout.tokens)
        return padded.masked_fill_(ctx.layout.padding[:, None, None], 0), None


def pad(x: Tensor, layout: PaddedLayout) -> Tensor:
    """Pad packed tokens: [N, ...] -> [S, L, ...]."""
    padded: Tensor = Pad.apply(x, layout)  # type: ignore[no-untyped-call]
    return padded.view(*layout.shape, *x.shape[1:])


def unpad(x: Tensor, layout: PaddedLayout) -> Tensor:
    """Remove padding: [S*L, ...] -> [N, ...]."""
    packed: Tensor = Unpad.apply(x, layout)  # type: ignore[no-untyped-call]
    return packed


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None, softcap: float | None
) -> Tensor:
    """Return softmax(softcap * tanh(q k^T scaling / softcap) + causal window mask) v; softmax in fp32."""
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    scores = (q @ k.transpose(-1, -2)).float() * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(q.shape[2], device=q.device)
    distance = position[:, None] - position[None, :]
    visible = (distance >= 0) & (distance < (window or q.shape[2]))
    return scores.masked_fill(~visible, float("-inf")).softmax(-1).to(v.dtype) @ v


@cache
def compiled_flex() -> Any:
    """Return the compiled flex_attention, compiled at the first call."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def flex_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, packed_block_mask: Any, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, softcap: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return packed attention [1, N, Hq, K] with FlexAttention."""
    refuse_unsupported(kwargs)
    if softcap is not None or sliding_window is not None or dropout:
        raise ValueError(
            "[model] attention: flex takes no soft-cap, window or dropout, and this model has one; use sdpa"
        )
    grouped = query.shape[1] != key.shape[1]
    out = compiled_flex()(query, key, value, block_mask=packed_block_mask, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Return no mask: the packed layout already restricts attention."""


AttentionInterface.register(SDPA, sdpa_attention)
AttentionInterface.register(FLEX, flex_attention)
AttentionMaskInterface.register(SDPA, _no_mask)
AttentionMaskInterface.register(FLEX, _no_mask)
