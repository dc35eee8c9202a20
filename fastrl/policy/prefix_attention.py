"""prefix_attention as an attention implementation of Hugging Face models.

    import fastrl.policy.prefix_attention
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="fastrl_prefix")
    model(forest_tokens, position_ids=depths, prefix_layout=TreeLayout.of(forest, device))

Without a layout it is ordinary causal attention, with transformers' meaning of position_ids and
attention_mask: packed sequences (positions that restart) are not mixed, and padding on either side is masked.
Steps with a KV cache use plain attention, so generate() works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from fastrl.ops import TreeLayout, prefix_attention

PREFIX = "fastrl_prefix"
STARTS, PADDING, SEEN_EARLIER = 1, 2, 4
"""Flags of a token: it starts a sequence; it is padding; the token before it attends to it (not causal)."""

_layouts: WeakIdKeyDictionary = WeakIdKeyDictionary()


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, prefix_layout: TreeLayout | None = None, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, softcap: float | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return attention [B, N, Hq, K] of query [B, Hq, N, K], key and value [B, Hkv, N, K].

    Args:
        prefix_layout: the prefix tree of all B * N tokens; None: derived from the attention mask.
    """
    refuse_unsupported(kwargs)
    if dropout:
        raise ValueError(f"[{PREFIX}] dropout: expected 0, got {dropout}")
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    batch, num_heads, length, _ = query.shape
    if attention_mask is not None and attention_mask.dim() == 4:
        return masked_attention(query, key, value, attention_mask, scaling, softcap), None
    if key.shape[2] != length:
        raise ValueError(
            f"[{PREFIX}] attention_mask: expected one over {key.shape[2]} cached tokens, got none"
        )
    tree = prefix_layout or layout_of(attention_mask, batch, length, query.device)
    q, k, v = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    out = prefix_attention(q, k, v, tree, scaling=scaling, softcap=softcap, window=sliding_window)
    return out.view(batch, length, num_heads, -1), None


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, softcap: float | None
) -> Tensor:
    """Return attention [B, N, Hq, K] of a step with a KV cache.

    Args:
        mask: [B, 1, N, cached tokens], True or 0 at tokens that are attended to.
    """
    if softcap is None:
        grouped = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, mask, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2)
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh((query @ key.transpose(-1, -2)).float() * scaling / softcap)
    masked = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return (masked.softmax(-1).to(value.dtype) @ value).transpose(1, 2)


def mark_tokens(
    *, batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Tensor],
    q_offset: int = 0, kv_offset: int = 0, attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu", use_vmap: bool = False, **kwargs: Any,
) -> Tensor | None:  # fmt: skip
    """Return the flags [B, N] of all tokens in place of transformers' mask; with a KV cache, the mask."""
    if q_length != kv_length or bool(q_offset != 0) or kv_offset:
        mask: Tensor | None = sdpa_mask(
            batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset,
            kv_offset=kv_offset, mask_function=mask_function, attention_mask=attention_mask, device=device,
            use_vmap=use_vmap, **{**kwargs, "allow_is_causal_skip": False},
        )  # fmt: skip
        return mask
    if use_vmap:
        raise ValueError(f"[{PREFIX}] attention: this model modifies the mask, which is not supported")
    rows, head = (
        torch.arange(batch_size, device=device)[:, None],
        torch.zeros((), dtype=torch.long, device=device),
    )
    tokens = torch.arange(q_length, device=device)
    before, after = tokens[None, :-1], tokens[None, 1:]
    marks = torch.zeros(batch_size, q_length, dtype=torch.uint8, device=device)
    marks[:, :1] = STARTS
    marks[:, 1:] |= STARTS * ~mask_function(rows, head, after, before)
    marks[:, 1:] |= SEEN_EARLIER * mask_function(rows, head, before, after)
    if attention_mask is not None:
        padding = ~attention_mask.to(device=device, dtype=torch.bool)
        marks |= PADDING * padding
        marks[:, 1:] |= STARTS * (padding[:, 1:] != padding[:, :-1])
    return marks


def layout_of(marks: Tensor | None, batch: int, length: int, device: torch.device) -> TreeLayout:
    """Return the layout of a batch's sequences, cached per forward pass. Costs one host sync."""
    if marks is None:
        return TreeLayout.packed(np.arange(batch + 1) * length, device)
    if marks not in _layouts:
        _layouts[marks] = _read(marks.cpu().numpy(), device)
    layout: TreeLayout = _layouts[marks]
    return layout


def _read(marks: np.ndarray, device: torch.device) -> TreeLayout:
    if (marks & SEEN_EARLIER).any():
        raise ValueError(f"[{PREFIX}] attention: expected causal attention, got tokens that see later ones")
    starts, padding = (marks & STARTS) > 0, (marks & PADDING) > 0
    resumed = padding[:, :-1] & ~padding[:, 1:]
    if (resumed.sum(1) + ~padding[:, 0] > 1).any():
        raise ValueError(f"[{PREFIX}] attention_mask: expected padding at the ends of a row, got some inside")
    return TreeLayout.packed(np.append(np.flatnonzero(starts), starts.size), device)


def refuse_unsupported(kwargs: dict[str, Any]) -> None:
    """Raise ValueError for attention sinks (s_aux)."""
    if kwargs.get("s_aux") is not None:
        raise ValueError("[model] attention: this model's attention needs s_aux, which is not supported")


AttentionInterface.register(PREFIX, attend)
AttentionMaskInterface.register(PREFIX, mark_tokens)
