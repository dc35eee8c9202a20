"""Count a call's kernel launches and host syncs (GPU) or operators (CPU); time first calls at new lengths."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from bench.inputs import Case, CaseSpec

# otherwise the profiler logs each start and stop on stderr
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
UNSEEN = 8
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def launches(call: Callable[[], object], device: str) -> dict[str, int]:
    """Return kernel_launches and host_syncs on CUDA, or the number of outermost aten_ops on a CPU.

    Operators inside compiled code and C++ extensions are not counted.
    """
    if device == "cpu":
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            call()
        outermost = [e for e in recorded.events() if is_aten(e) and not is_aten(e.cpu_parent)]
        return {"aten_ops": len(outermost)}
    names, own = cuda_events(call), cuda_events(lambda: None)
    # subtract the profiler's own waits for the device
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
    """Return milliseconds of the first call at each of UNSEEN new lengths, from long to short."""
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
