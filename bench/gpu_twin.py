"""A twin of a GPU on any machine: GPU branches run on fake CUDA tensors, and every operator is counted.

    with gpu_twin() as twin, twin.phase("score"):
        engine.score(sequences)                 # an engine whose model was made inside the twin
    print(twin.phases["score"].launches)

Tensors are fake (shapes, dtypes, devices and strides without memory), so a 7B model costs nothing. Triton
kernels are counted where they would be launched. What a GPU alone can tell is missing: values, times, the
compiler, streams, and allocator. Autograd's backward aborts on fake CUDA tensors in a torch without CUDA.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from triton.runtime.jit import KernelInterface

from bench.device_counts import DeviceCounter, tensors_in
from bench.no_cuda import cuda_guard
from fastrl.kernels.linear_grpo_loss.library import linear_grpo_loss_op

GPU = torch.device("cuda:0")
"""With its index: in a torch without CUDA the plain "cuda" would ask a driver for the current device."""
OPERATORS = ("group_advantage", "grpo_loss", "linear_logprob", "logits_grpo_loss", "prefix_attention")
SCORES = (
    "max", "others", "excluded", "weighted", "sum_z", "target", "total", "logprobs", "entropy",
    "self_certainty", "top1",
)  # fmt: skip
WRITTEN: Mapping[str, tuple[str, ...]] = {
    "decode_kernel": ("partial_sums", "partial_stats"), "decode_merge_kernel": ("out",),
    "score_kernel": SCORES, "gradient_kernel": ("out",), "floor_kernel": ("out",),
    "select_kernel": ("computed", "lengths"), "sequence_kernel": ("terms",),
    "token_kernel": ("grad_logprobs", "grad_entropy", "partials"), "fold_kernel": ("stats",),
    "group_advantage_kernel": ("out",), "prefix_forward_kernel": ("out", "lse"),
    "prefix_delta_kernel": ("delta",), "prefix_query_gradient_kernel": ("grad_query",),
    "prefix_key_gradient_kernel": ("grad_key", "grad_value"),
}  # fmt: skip
"""Arguments that a Triton kernel writes; it reads the others."""
POOL = ("keys", "values")
"""Arguments of which a kernel reads a part: EngineStats.kv_tokens_read counts it, not bytes_read."""


@contextmanager
def gpu_twin() -> Iterator[DeviceCounter]:
    """Make fake CUDA tensors in the block, and yield the counter of their operators."""
    counter, current = DeviceCounter("cuda"), CurrentDevice()
    with ExitStack() as stack:
        for each in stand_ins(counter, current):
            stack.enter_context(each)
        stack.enter_context(cuda_guard())
        stack.enter_context(torch.no_grad())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(counter)
        yield counter


def stand_ins(counter: DeviceCounter, current: CurrentDevice) -> list[Any]:
    """Return the replacements of what needs a driver, a compiler or values."""
    return [
        patch("torch.cuda.device", current.switch),
        patch("torch.cuda.synchronize", lambda device=None: counter.add(host_reads=1)),
        patch("torch.cuda.is_current_stream_capturing", lambda: False),
        patch("torch.nn.functional.scaled_dot_product_attention", fused_attention(counter)),
        patch.object(KernelInterface, "__getitem__", triton_launch(counter, current)),
        patch.object(FakeTensor, "numpy", lambda tensor: ones(tensor), create=True),
        patch.object(FakeTensor, "tolist", read_list(counter)),
        patch.object(FakeTensor, "data", DATA, create=True),
        patch("torch.utils.swap_tensors", set_data),  # by which Module.to moves fake parameters
        *(patch(f"fastrl.kernels.{name}.{name}_op", inside(name)) for name in OPERATORS),
        patch("fastrl.kernels.linear_grpo_loss.linear_grpo_loss_op", with_gradients),
        # it compares values
        patch("fastrl.engine.tree.engine.probe", lambda decoder, vocabulary: None),
        patch("fastrl.engine.tree.decode_batch.captured", captured_graph(counter)),
    ]


def inside(name: str) -> Any:
    """Return the function of an operator, of which torch would only call the fake implementation."""
    return getattr(import_module(f"fastrl.kernels.{name}"), f"{name}_op")._init_fn


@contextmanager
def meta_twin() -> Iterator[DeviceCounter]:
    """Yield a counter of operators on meta tensors, for which backward works; attention is one kernel."""
    counter = DeviceCounter("meta")
    attention = patch("torch.nn.functional.scaled_dot_product_attention", fused_attention(counter))
    with attention, counter:
        yield counter


class CurrentDevice:
    """The GPU that torch.cuda.device has made current; Triton and the CUDA launcher use that one."""

    def __init__(self) -> None:
        self.index = 0

    @contextmanager
    def switch(self, device: torch.device | int | None) -> Iterator[None]:
        """Stand for torch.cuda.device."""
        before, index = self.index, device.index if isinstance(device, torch.device) else device
        self.index = index or 0
        try:
            yield
        finally:
            self.index = before


def triton_launch(counter: DeviceCounter, current: CurrentDevice) -> Callable[..., Any]:
    """Return a stand-in of kernel[grid] that counts the launch, and checks the tensors' device."""

    def launcher(kernel: Any, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **kwargs: Any) -> None:
            named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
            name, tensors = kernel.fn.__name__, {k: v for k, v in named.items() if isinstance(v, Tensor)}
            for argument, tensor in tensors.items():
                if tensor.device != torch.device("cuda", current.index):
                    raise RuntimeError(
                        f"[gpu_twin] {name} {argument}: expected a tensor on the current device "
                        f"cuda:{current.index}, got one on {tensor.device}"
                    )
            written = [tensor for argument, tensor in tensors.items() if argument in WRITTEN[name]]
            read = [t for argument, t in tensors.items() if argument not in (*WRITTEN[name], *POOL)]
            counter.launch(read, written)

        return launch

    return launcher


def fused_attention(counter: DeviceCounter) -> Callable[..., Tensor]:
    """Return a stand-in of scaled_dot_product_attention: one kernel, as flash and efficient attention are.

    Without CUDA torch would choose the mathematical definition, a dozen operators.
    """

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        out: Tensor = FusedAttention.apply(query, key, value, attn_mask, counter)  # type: ignore[no-untyped-call]
        return out

    return attention


class FusedAttention(torch.autograd.Function):
    """An attention kernel and its backward kernel, as launches without values."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, counter: DeviceCounter
    ) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, out)
        ctx.counter = counter
        counter.launch(tensors_in((query, key, value, mask)), [out])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in saved[:3]]
        ctx.counter.launch([grad, *saved], grads)
        return (*grads, None, None)


def captured_graph(counter: DeviceCounter) -> Callable[..., Any]:
    """Return a stand-in of `captured`: the capture counts as the work, a replay as one launch."""

    class Graph:
        def replay(self) -> None:
            counter.add(launches=1)

    def captured(work: Callable[[], None], device: torch.device) -> Graph:
        with counter.phase("capture"):
            work()
        return Graph()

    return captured


def with_gradients(*args: Any) -> Any:
    """Run linear_grpo_loss's operator for the gradients in hidden and weight, as training does."""
    bound = inspect.signature(linear_grpo_loss_op._init_fn).bind(*args)
    bound.arguments["needed"] = [True, True, bound.arguments["bias"] is not None]
    return linear_grpo_loss_op._init_fn(*bound.args)


def read_list(counter: DeviceCounter) -> Callable[[Tensor], Any]:
    def tolist(tensor: Tensor) -> Any:
        counter.add(host_reads=int(counter.is_here(tensor)))
        return ones(tensor).tolist()

    return tolist


def set_data(tensor: FakeTensor, value: FakeTensor) -> None:
    """Let a fake tensor share another's storage, also on another device, as `tensor.data = value` does."""
    PLAIN_DATA.__set__(tensor, value)
    tensor.fake_device = value.fake_device


PLAIN_DATA: Any = Tensor.data
DATA = property(lambda tensor: PLAIN_DATA.__get__(tensor), set_data)


def ones(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return the array of a fake tensor's shape and dtype; every value is 1."""
    dtype = np.bool_ if tensor.dtype is torch.bool else str(tensor.dtype).removeprefix("torch.")
    return np.ones(tuple(tensor.shape), dtype=dtype)
