"""Cases and devices of the GPU tests."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.ops import linear_grpo_loss, linear_logprob

HAS_GPU = torch.cuda.is_available()
GPU = (pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs a GPU"))
BUILT = pytest.mark.skipif(not _C.cuda_built(), reason="needs a build with nvcc (FASTRL_CUDA=ON)")
CUDA_TOKENS = pytest.param("cuda", "cuda", marks=(*GPU, BUILT))
TRITON = pytest.param("cuda", "triton", marks=GPU)
TORCH = pytest.param("cuda", "torch", marks=GPU)
TOKENS = [("cpu", "cpp"), ("cpu", "torch"), TORCH, TRITON, CUDA_TOKENS]
ROWS = [("cpu", "cpp"), ("cpu", "torch"), TORCH, TRITON]
DTYPES = [torch.float32, torch.bfloat16]
OLD = ("old_logprobs", "ref_logprobs", "rollout_logprobs")
UNITS = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Relative L2 error of a gradient; a plain float32 product over 151936 columns already has 4e-5."""


def cuts(count: int) -> list[int]:
    one = min(1, count)
    return [0, one, one, max(one, count // 2), count]


def batch_of(logprobs: Tensor, device: str) -> dict[str, Tensor]:
    """Ragged sequences, one of them empty, around these log-probs; all float32."""
    count, now = len(logprobs), logprobs.detach().cpu().float()
    old = now + 0.3 * torch.randn(count)
    found = {
        "cu_seqlens": torch.tensor(cuts(count), dtype=torch.int32),
        "advantages": torch.tensor([1.5, 0.7, -1.0, 0.8]),
        "loss_mask": torch.rand(count) > 0.2,
        "old_logprobs": old,
        "ref_logprobs": now + 0.4 * torch.randn(count),
        "rollout_logprobs": torch.where(torch.rand(count) < 0.1, math.nan, old + 0.1 * torch.randn(count)),
    }
    return {name: each.to(device) for name, each in found.items()}


def exactly(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.cpu().double() if name in OLD else each.cpu() for name, each in values.items()}


def head_inputs(count: int, width: int, vocab: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    hidden = torch.randn(count, width).to(device, dtype).requires_grad_()
    weight = (0.3 * torch.randn(vocab, width)).to(device, dtype).requires_grad_()
    return hidden, weight, torch.randint(vocab, (count,)).to(device)


def exact_head(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    hidden, weight, ids = (each.detach().cpu() for each in inputs)
    return hidden.double().requires_grad_(), weight.double().requires_grad_(), ids


def loss_batch(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    with torch.no_grad():
        scores = linear_logprob(*exact_head(inputs), backend="reference")
    return batch_of(scores.logprobs, inputs[0].device.type)


def with_gradients(op, inputs, *others, **options):
    """(output, gradients in hidden and weight)"""
    out = op(*inputs, *others, **options)
    value = out.loss if op is linear_grpo_loss else (out.logprobs * 0.7 + out.entropy * 0.2).sum()
    return out, torch.autograd.grad(value, inputs[:2])


def assert_near(found, wanted, unit: float) -> None:
    for value, want in zip(found, wanted, strict=True):
        assert (value.detach().cpu().double() - want).norm() <= unit * want.norm()
