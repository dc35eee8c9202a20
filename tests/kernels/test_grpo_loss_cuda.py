"""The CUDA token map against the C++ one; the public op does not dispatch to it yet."""

from __future__ import annotations

import pytest
import torch

import fastrl._C as _C
from fastrl.kernels.grpo_loss.cpp_impl import native_config
from fastrl.ops import LossConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (_C.cuda_built() and torch.cuda.is_available()), reason="needs a CUDA build and a GPU"
    ),
]


def run(device: str, inputs: dict[str, torch.Tensor], cu_seqlens: torch.Tensor, config: LossConfig):
    count, sequences = len(inputs["logprobs"]), len(cu_seqlens) - 1
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    cu_seqlens = cu_seqlens.to(device)
    slopes = torch.full((count,), float("nan"), device=device)
    stats = torch.full((_C.NUM_GRPO_STATS,), float("nan"), dtype=torch.float64, device=device)
    batch = _C.GrpoTokens.of(
        tokens=count,
        sequences=sequences,
        cu_seqlens=cu_seqlens.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in inputs.items()},
    )
    outputs = {"slopes": slopes.data_ptr(), "stats": stats.data_ptr()}
    if device == "cpu":
        _C.grpo_loss_cpu(batch=batch, config=native_config(config), **outputs, num_threads=1)
    else:
        scratch = torch.empty(_C.grpo_scratch_size(tokens=count, sequences=sequences), device=device)
        stream = torch.cuda.current_stream().cuda_stream
        _C.grpo_loss_cuda(
            batch=batch, config=native_config(config), **outputs, scratch=scratch.data_ptr(), stream=stream
        )
    return slopes.cpu(), stats.cpu()


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "gspo", "cispo", "rloo"])
@pytest.mark.parametrize("correction", ["none", "token_mask", "sequence_truncate"])
def test_against_cpp(loss_type, correction):
    cu_seqlens = torch.tensor([0, 1, 1, 700, 1700], dtype=torch.int32)
    count = 1700
    logprobs = -torch.rand(count) * 3
    old = logprobs + torch.randn(count) * 0.1
    inputs = {
        "logprobs": logprobs,
        "advantages": torch.randn(count),
        "weights": (torch.rand(count) > 0.2) / 100,
        "old_logprobs": old,
        "ref_logprobs": logprobs + torch.randn(count) * 0.1,
        "rollout_logprobs": old + torch.randn(count) * 0.01,
        "entropy": torch.rand(count),
    }
    config = LossConfig(loss_type=loss_type, correction=correction, kl_coef=0.1, entropy_coef=0.1)
    expected = run("cpu", inputs, cu_seqlens, config)
    for value, want in zip(run("cuda", inputs, cu_seqlens, config), expected, strict=True):
        torch.testing.assert_close(value, want, rtol=1e-4, atol=1e-6)
