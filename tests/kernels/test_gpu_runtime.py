"""GPU-only properties: CUDA graphs, host syncs, recompilation, tiles beyond 2^31 elements, memory."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from gpu_cases import BUILT, DTYPES, GPU, UNITS, assert_near, batch_of, head_inputs, with_gradients
from torch import Tensor

from fastrl.ops import LossConfig, grpo_loss, linear_grpo_loss, linear_logprob

pytestmark = list(GPU)
GIB = 2**30
COUNT = 256
ANY = [pytest.param("cuda", marks=BUILT), "triton"]
CONFIGS = {
    "dapo": LossConfig(kl_coef=0.1),
    "gspo": LossConfig(loss_type="gspo", correction="sequence_mask", kl_coef=0.1),
}


def head_case(dtype: torch.dtype = torch.float32):
    """(inputs, batch) whose rows of any mask are at most COUNT."""
    inputs = head_inputs(COUNT, 64, 4096, dtype, "cuda")
    return inputs, any_batch(COUNT)


def any_batch(count: int) -> dict[str, Tensor]:
    """Near what head_case's log-probs are."""
    return batch_of(-9 - 4 * torch.rand(count), "cuda")


def loss_and_gradients(inputs, batch, config: LossConfig, most: int | None = COUNT) -> list[Tensor]:
    out, grads = with_gradients(
        linear_grpo_loss,
        inputs,
        **batch,
        config=config,
        denominator=5.0,
        max_active_rows=most,
        backend="triton",
    )
    return [out.loss.detach(), *grads, out.logprobs, *out.stats.values()]


def scores(inputs) -> list[Tensor]:
    with torch.no_grad():
        out = linear_logprob(*inputs, backend="triton")
    return [out.logprobs, out.entropy, out.self_certainty]


def token_loss(logprobs: Tensor, batch, config: LossConfig, backend: str) -> list[Tensor]:
    out = grpo_loss(logprobs, **batch, config=config, denominator=5.0, backend=backend)
    return [out.loss.detach(), *torch.autograd.grad(out.loss, logprobs), *out.stats.values()]


def captured(call) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A graph of the call, and the tensors that a replay fills."""
    warm_up(call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


def warm_up(call) -> None:
    """On another stream, as a capture wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def no_waits():
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def need_free(size: float) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < size:
        pytest.skip(f"needs {size / GIB:.0f} GiB of free GPU memory, has {free / GIB:.0f}")


def change(inputs, batch) -> None:
    """Other values in the same memory; another mask, with fewer rows."""
    fresh = any_batch(COUNT) | {"advantages": torch.randn(4, device="cuda")}
    fresh["loss_mask"] = torch.rand(COUNT, device="cuda") > 0.6
    with torch.no_grad():
        for name, values in fresh.items():
            batch[name].copy_(values)
        for each in inputs:
            each.copy_(each.roll(3, 0) if each.dtype == torch.int64 else 0.9 * each + 0.1)


def assert_replays(call, inputs, batch, unit: float = 1e-5) -> None:
    """A replay over other values gives what the call gives."""
    graph, results = captured(call)
    for _ in range(2):
        change(inputs, batch)
        graph.replay()
        found = [each.clone() for each in results]
        assert_near(found, [each.detach().cpu().double() for each in call()], unit)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_linear_grpo_loss(config, dtype):
    inputs, batch = head_case(dtype)
    assert_replays(lambda: loss_and_gradients(inputs, batch, CONFIGS[config]), inputs, batch, UNITS[dtype])


def test_a_captured_linear_logprob():
    inputs, batch = head_case()
    assert_replays(lambda: scores(inputs), inputs, batch)


@pytest.mark.parametrize("backend", ANY)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_captured_grpo_loss(config, backend):
    batch = any_batch(COUNT)
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    assert_replays(lambda: token_loss(logprobs, batch, CONFIGS[config], backend), [logprobs], batch)


def test_a_capture_wants_max_active_rows():
    inputs, batch = head_case()
    call = lambda: loss_and_gradients(inputs, batch, CONFIGS["dapo"], most=None)
    warm_up(call)
    expected = pytest.raises(RuntimeError, match=r"\[ops\] max_active_rows: expected a number")
    with expected, torch.cuda.graph(torch.cuda.CUDAGraph()):
        call()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_waited_for(config, dtype):
    inputs, batch = head_case(dtype)
    loss_and_gradients(inputs, batch, CONFIGS[config])
    scores(inputs)
    with no_waits():
        loss_and_gradients(inputs, batch, CONFIGS[config])
        scores(inputs)
    with pytest.raises(RuntimeError, match="synchroniz"), no_waits():
        loss_and_gradients(inputs, batch, CONFIGS[config], most=None)


@pytest.mark.parametrize("backend", ANY)
@pytest.mark.parametrize("config", CONFIGS)
def test_grpo_loss_waits_for_nothing(config, backend):
    batch = any_batch(COUNT)
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    token_loss(logprobs, batch, CONFIGS[config], backend)
    with no_waits():
        token_loss(logprobs, batch, CONFIGS[config], backend)


def test_new_lengths_compile_nothing(monkeypatch):
    triton = pytest.importorskip("triton")
    compiled: list[str] = []

    def hook(**found) -> bool:
        compiled.append(found["repr"])
        return False  # go on

    def run(count: int) -> None:
        inputs = head_inputs(count, 64, 4096, torch.bfloat16, "cuda")
        batch = any_batch(count)
        for config in CONFIGS.values():
            loss_and_gradients(inputs, batch, config, most=None)
            logprobs = batch["old_logprobs"].clone().requires_grad_()
            token_loss(logprobs, batch, config, "triton")
        with_gradients(linear_logprob, inputs, backend="triton")

    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", hook)
    run(1000)
    compiled.clear()
    for count in (999, 1001, 1008, 1024, 640, 333, 17, 2):
        run(count)
    assert compiled == []


def test_tiles_beyond_two_to_the_31_elements():
    need_free(24 * GIB)
    count, vocab = 140_000, 16_384  # one tile: 2.29e9 logits, 8.5 GiB
    hidden, weight, ids = head_inputs(count, 16, vocab, torch.bfloat16, "cuda")
    options = {"backend": "triton"}
    out, grads = with_gradients(linear_logprob, (hidden, weight, ids), chunk_rows=count, **options)
    for rows in (slice(0, 64), slice(count // 2, count // 2 + 64), slice(count - 64, count)):
        part = (hidden[rows].detach().requires_grad_(), weight, ids[rows])
        want, wanted = with_gradients(linear_logprob, part, **options)
        found = (out.logprobs[rows], out.entropy[rows])
        assert_near(found, [each.detach().cpu().double() for each in (want.logprobs, want.entropy)], 1e-5)
        assert_near([grads[0][rows]], [wanted[0].cpu().double()], 1e-2)


@pytest.mark.parametrize("options", [{}, {"recompute": True}], ids=["one pass", "recompute"])
def test_workspace(options):
    """1.5 GiB more than what is returned, and a float32 gradient of the weight where there is one pass."""
    need_free(12 * GIB)
    count, width, vocab = 16384, 4096, 151936
    hidden = torch.randn(count, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.empty(vocab, width, device="cuda", dtype=torch.bfloat16).normal_(0, 0.02).requires_grad_()
    ids = torch.randint(vocab, (count,), device="cuda")
    batch = any_batch(count) | {"loss_mask": torch.ones(count, device="cuda", dtype=bool)}
    how = {"config": LossConfig(), "denominator": 1e4, "backend": "triton", **options}
    with_gradients(linear_grpo_loss, (hidden, weight, ids), **batch, **how)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    _, grads = with_gradients(linear_grpo_loss, (hidden, weight, ids), **batch, **how)
    torch.cuda.synchronize()
    returned = sum(each.numel() * each.element_size() for each in grads)
    workspace = torch.cuda.max_memory_allocated() - before - returned
    allowed = 1.5 * GIB + (0 if options else 4 * weight.numel())
    assert workspace <= allowed, f"{workspace / GIB:.2f} GiB, allowed are {allowed / GIB:.2f}"
