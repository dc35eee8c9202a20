"""prefix_attention as a torch operator, with a fake implementation for torch.compile and a backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.kernels._dispatch import Implementation, anywhere, device_of, triton_only
from fastrl.kernels.prefix_attention.dense import Dense
from fastrl.kernels.prefix_attention.layout import TreeLayout


def _triton() -> Any:
    from fastrl.kernels.prefix_attention import triton_impl

    return triton_impl


def _torch() -> Any:
    from fastrl.kernels.prefix_attention import torch_impl

    return torch_impl


def _half_on_a_gpu(device: torch.device, dtype: torch.dtype) -> str | None:
    """Refuse float32 on a GPU: tensor cores would round it, and without them torch is as fast."""
    if device.type == "cuda" and dtype == torch.float32:
        return "takes only bfloat16 and float16"
    return triton_only(device, dtype)


IMPLEMENTATIONS = (
    Implementation("triton", _triton, _half_on_a_gpu),
    Implementation("torch", _torch, anywhere),
    Implementation("reference", _torch, anywhere),
)


def lists_of(tree: TreeLayout, backend: str, head: int, window: int | None) -> list[Tensor]:
    """Return the tile lists that the Triton kernels need; empty for other backends."""
    if backend != "triton":
        return []
    tiles = _triton().tiles_of(head)
    found = [
        tree.key_lists(tiles.forward.query, tiles.forward.key, window),
        tree.key_lists(tiles.query_gradient.query, tiles.query_gradient.key, window),
        tree.query_lists(tiles.key_gradient.query, tiles.key_gradient.key, window),
    ]
    return [tensor for lists in found for tensor in (lists.bounds, lists.tiles)]


@torch.library.custom_op("fastrl::prefix_attention", mutates_args=())
def prefix_attention_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    depths: Tensor,
    subtree_stop: Tensor,
    segments: Tensor,
    lists: list[Tensor],
    scaling: float,
    softcap: float | None,
    window: int | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return (out [M, Hq, Kv], log-sum-exps [M, Hq])."""
    if query.shape[0] == 0:
        return _outputs_like(query, value)
    if backend == "triton":
        with device_of(query):
            out: tuple[Tensor, Tensor] = _triton().forward(
                query, key, value, depths, subtree_stop, lists, scaling, softcap, window
            )
    else:
        out = _torch().forward(query, key, value, segments, Dense(scaling, softcap), window)
    return out


@prefix_attention_op.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _outputs_like(query, value)


def _outputs_like(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:2], dtype=torch.promote_types(query.dtype, torch.float32))
    return value.new_empty((*query.shape[:2], value.shape[2])), lse


@torch.library.custom_op("fastrl::prefix_attention_backward", mutates_args=())
def prefix_attention_backward_op(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    depths: Tensor,
    subtree_stop: Tensor,
    segments: Tensor,
    lists: list[Tensor],
    scaling: float,
    softcap: float | None,
    window: int | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    if query.shape[0] == 0:
        return _contiguous_like(query, key, value)
    if backend == "triton":
        with device_of(query):
            found: tuple[Tensor, Tensor, Tensor] = _triton().backward(
                grad, query, key, value, out, lse, depths, subtree_stop, lists, scaling, softcap, window
            )
    else:
        dense = Dense(scaling, softcap)
        found = _torch().backward(grad, query, key, value, out, lse, segments, dense, window)
    return found


@prefix_attention_backward_op.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _contiguous_like(query, key, value)


def _contiguous_like(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, *ctx.options = inputs  # the layout itself, since pieces are cached by its identity
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    gradients = prefix_attention_backward_op(grad, *ctx.saved_tensors, *ctx.options)
    kept = [g if wanted else None for g, wanted in zip(gradients, ctx.needs_input_grad, strict=False)]
    none = [[None] * len(option) if isinstance(option, list) else None for option in ctx.options]
    return (*kept, *none)


prefix_attention_op.register_autograd(_backward, setup_context=_keep)
