"""linear_logprob as a torch operator, with a fake implementation for torch.compile and a backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._dispatch import Implementation, anywhere, cpu_only, device_of, triton_only
from fastrl.kernels._head import Head, Scaling, check_values
from fastrl.kernels._rows import RowMath
from fastrl.kernels.linear_logprob.passes import differentiate, score

NUM_INPUTS = 10


def _cpp() -> RowMath:
    from fastrl.kernels.linear_logprob.cpp_rows import CppRows

    return CppRows()


def _triton() -> RowMath:
    from fastrl.kernels.linear_logprob.triton_rows import TritonRows

    return TritonRows()


def _torch() -> RowMath:
    from fastrl.kernels.linear_logprob.torch_rows import TorchRows

    return TorchRows()


IMPLEMENTATIONS = (
    Implementation("cpp", _cpp, cpu_only),
    Implementation("triton", _triton, triton_only),
    Implementation("torch", _torch, anywhere),
    Implementation("reference", _torch, anywhere),
)


def row_math(name: str) -> RowMath:
    """Return the row math of a backend."""
    math: RowMath = next(option for option in IMPLEMENTATIONS if option.name == name).run()
    return math


Scores = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("fastrl::linear_logprob", mutates_args=())
def linear_logprob_op(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    temperature: Tensor | None,
    scaling: str,
    chunk_rows: int | None,
    batch_invariant: bool,
    max_active_rows: int | None,
    backend: str,
) -> Scores:
    """Return (logprobs, entropy, self_certainty, top1, running [3, T] float64, floor [T] or [0])."""
    check_values("linear_logprob", ids, weight.shape[0], temperature)
    head = Head.of(weight, bias, temperature, Scaling.decode(scaling))
    with device_of(hidden):
        return score(hidden, ids, head, row_math(backend), chunk_rows, batch_invariant)


@linear_logprob_op.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Any, ids: Any, temperature: Any, scaling: str, *_: Any) -> Scores:
    num_rows = hidden.shape[0]
    head = Head.of(weight, bias, temperature, Scaling.decode(scaling))
    accurate = torch.promote_types(hidden.dtype, torch.float32)
    final = [hidden.new_empty(num_rows, dtype=accurate) for _ in range(3)]
    top1 = hidden.new_empty(num_rows, dtype=torch.bool)
    running = hidden.new_empty((3, num_rows), dtype=torch.float64)
    floor = hidden.new_empty(num_rows if head.has_support else 0, dtype=accurate)
    return final[0], final[1], final[2], top1, running, floor


@torch.library.custom_op("fastrl::linear_logprob_backward", mutates_args=())
def linear_logprob_backward_op(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    temperature: Tensor | None,
    logprobs: Tensor,
    entropy: Tensor,
    running: Tensor,
    floor: Tensor,
    scaling: str,
    chunk_rows: int | None,
    batch_invariant: bool,
    max_active_rows: int | None,
    backend: str,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in hidden, weight and bias; empty tensors for those not needed."""
    head = Head.of(weight, bias, temperature, Scaling.decode(scaling))
    with device_of(hidden):
        found = differentiate(
            hidden,
            ids,
            head,
            row_math(backend),
            chunk_rows,
            batch_invariant,
            max_active_rows,
            (grad_logprobs, grad_entropy),
            (logprobs, entropy, running, floor),
            (needed[0], needed[1], needed[2]),
        )
    grads = [hidden.new_empty(0) if grad is None else grad for grad in found]
    return grads[0], grads[1], grads[2]


@linear_logprob_backward_op.register_fake
def _(
    grad_logprobs: Tensor, grad_entropy: Tensor, hidden: Tensor, weight: Tensor, bias: Any, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_gradients(hidden, weight, bias, others[-1])


def empty_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return uninitialised gradients; empty tensors for those not needed."""
    inputs = (hidden, weight, bias)
    found = [
        hidden.new_empty(0)
        if tensor is None or not wanted
        else torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        for tensor, wanted in zip(inputs, needed, strict=True)
    ]
    return found[0], found[1], found[2]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Scores) -> None:
    hidden, weight, bias, ids, temperature, *ctx.options = inputs
    logprobs, entropy, _, _, running, floor = output
    ctx.save_for_backward(hidden, weight, bias, ids, temperature, logprobs, entropy, running, floor)
    ctx.mark_non_differentiable(*output[2:])
    ctx.set_materialize_grads(True)


def _backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor, *_: Any) -> tuple[Any, ...]:
    needed = [bool(wanted) for wanted in ctx.needs_input_grad[:3]]
    gradients = linear_logprob_backward_op(
        grad_logprobs, grad_entropy, *ctx.saved_tensors, *ctx.options, needed
    )
    kept = [grad if wanted else None for grad, wanted in zip(gradients, needed, strict=True)]
    return (*kept, *([None] * (NUM_INPUTS - 3)))


linear_logprob_op.register_autograd(_backward, setup_context=_keep)
