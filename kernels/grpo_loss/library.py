"""grpo_loss as a torch operator: the forward computes the gradients, the backward scales them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._batch import unpack_batch
from fastrl.kernels._dispatch import Implementation, anywhere, cpu_only, device_of, no_float64, triton_only
from fastrl.kernels._tokens import STATS, TokenMath, TokenScores
from fastrl.kernels.config import LossConfig

NUM_INPUTS = 12


def _cpp() -> TokenMath:
    from fastrl.kernels.grpo_loss.cpp_tokens import CppTokens

    return CppTokens()


def _triton() -> TokenMath:
    from fastrl.kernels.grpo_loss.triton_tokens import TritonTokens

    return TritonTokens()


def _cuda() -> TokenMath:
    from fastrl.kernels.grpo_loss.cuda_tokens import CudaTokens

    return CudaTokens()


def _cuda_only(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"runs on a GPU, the tensors are on {device}"
    import fastrl._C as _C

    return no_float64(device, dtype) if _C.cuda_built() else "needs a build with nvcc (FASTRL_CUDA=ON)"


def _torch() -> TokenMath:
    from fastrl.kernels.grpo_loss.torch_tokens import TorchTokens

    return TorchTokens()


IMPLEMENTATIONS = (
    Implementation("cpp", _cpp, cpu_only),
    Implementation("triton", _triton, triton_only),
    Implementation("cuda", _cuda, _cuda_only),
    Implementation("torch", _torch, anywhere),
    Implementation("reference", _torch, anywhere),
)


def token_math(name: str) -> TokenMath:
    """Return the token math of a backend."""
    math: TokenMath = next(option for option in IMPLEMENTATIONS if option.name == name).run()
    return math


@torch.library.custom_op("fastrl::grpo_loss", mutates_args=())
def grpo_loss_op(
    logprobs: Tensor,
    entropy: Tensor | None,
    cu_seqlens: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    rollout_logprobs: Tensor | None,
    per_token: bool,
    config: str,
    denominator: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (loss, d loss / d logprobs, d loss / d entropy or an empty tensor, stats)."""
    tensors = (cu_seqlens, advantages, loss_mask, old_logprobs, ref_logprobs, rollout_logprobs)
    batch = unpack_batch("grpo_loss", len(logprobs), tensors, per_token, config, denominator)
    math = token_math(backend)
    scores = TokenScores(None, logprobs, entropy, None, None)
    with device_of(logprobs):
        grads = math.grads(batch, math.select(batch, leave_out=False), scores)
    grad_entropy = logprobs.new_empty(0) if grads.grad_entropy is None else grads.grad_entropy
    loss = grads.stats[STATS.index("loss")].to(logprobs.dtype, copy=True)
    return loss, grads.grad_logprobs, grad_entropy, grads.stats


@grpo_loss_op.register_fake
def _(logprobs: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    has_entropy = LossConfig.decode(others[8]).entropy_coef != 0
    return (
        logprobs.new_empty(()),
        torch.empty_like(logprobs),
        logprobs.new_empty(logprobs.shape[0] if has_entropy else 0),
        logprobs.new_empty(len(STATS), dtype=torch.float64),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[1], output[2])
    ctx.set_materialize_grads(False)  # no zero gradients for the other outputs
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Any, ...]:
    grad_logprobs, grad_entropy = ctx.saved_tensors
    grads = [grad_logprobs * grad_loss, None]
    if ctx.needs_input_grad[1] and grad_entropy.numel() == grad_logprobs.numel():
        grads[1] = grad_entropy * grad_loss
    return (*grads, *([None] * (NUM_INPUTS - 2)))


grpo_loss_op.register_autograd(_backward, setup_context=_keep)
