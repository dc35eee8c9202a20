"""What one call asks of the machine: kernels and waits on a GPU, operators on a CPU; and its first calls."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from bench.inputs import Case, CaseSpec

# or the profiler reports each start and stop on stderr
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
UNSEEN = 8
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def launches(call: Callable[[], object], device: str) -> dict[str, int]:
    """On CUDA kernel_launches and host_syncs; on a CPU aten_ops, the outermost ones.

    Operators inside compiled code and inside C++ extensions are not seen: that is what they save.
    """
    if device == "cpu":
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            call()
        outermost = [e for e in recorded.events() if is_aten(e) and not is_aten(e.cpu_parent)]
        return {"aten_ops": len(outermost)}
    names, own = cuda_events(call), cuda_events(lambda: None)
    # the profiler waits for the device itself
    waits = sum(name in WAITS for name in names) - sum(name in WAITS for name in own)
    return {"kernel_launches": sum("LaunchKernel" in name for name in names), "host_syncs": max(0, waits)}


def cuda_events(call: Callable[[], object]) -> list[str]:
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        call()
    return [event.name for event in recorded.events()]


def is_aten(event: object) -> bool:
    return str(getattr(event, "name", "")).startswith("aten::")


def first_calls_ms(call: Callable[[Case], object], spec: CaseSpec) -> list[float]:
    """Milliseconds of the first call at unseen lengths; every sequence is shorter each time."""
    length = spec.tokens // spec.num_sequences
    step = max(1, length // 37)
    found = []
    for i in range(1, UNSEEN + 1):
        tokens = max(1, length - i * step) * spec.num_sequences
        case = spec.with_tokens(tokens).build()
        wait(spec.device)
        began = time.perf_counter()
        call(case)
        wait(spec.device)
        found.append((time.perf_counter() - began) * 1e3)
    return found


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
