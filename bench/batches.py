"""Inputs of the loss benches: packed sequences, with tokens that carry no gradient where asked for."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_batch(num_tokens: int, num_sequences: int, idle: float) -> dict[str, Tensor]:
    """Sequences of equal length; a share `idle` of the tokens, each sequence's first ones, is not trained."""
    length = num_tokens // num_sequences
    position = torch.arange(length * num_sequences) % length
    return {
        "cu_seqlens": torch.arange(0, num_tokens + 1, length, dtype=torch.int32),
        "advantages": torch.randn(num_sequences),
        "loss_mask": position >= idle * length,
    }


def head_inputs(num_tokens: int, width: int, vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(num_tokens, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocab, width) * 0.02).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab, (num_tokens,))
