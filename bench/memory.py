"""Measure the extra memory of one training call: its peak without the inputs and the returned gradients.

On a GPU the figures are PyTorch's allocator's. On a CPU a fresh process warms up, resets its peak resident
memory (/proc/self/clear_refs) and makes one call.

    python -m bench.memory '<request as JSON>'     prints the bytes; the benches run it
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from bench.competitors import add_wheels
from bench.inputs import CaseSpec
from bench.providers import gradients, head_providers

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_ROWS = 16


def extra_bytes_cuda(call: Callable[[], tuple[Tensor, ...]]) -> int:
    """Return the extra bytes of `call`, which returns its gradients and must have run once before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    grads = call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before - size_of(grads)


def extra_bytes_cpu(call: Callable[[], tuple[Tensor, ...]]) -> int:
    """Return the extra bytes of `call` in a fresh process; memory kept by malloc would hide its use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    grads = call()
    return max(0, resident("VmHWM") - before - size_of(grads))


def resident(field: str) -> int:
    """Return VmRSS (current resident memory) or VmHWM (its peak) in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def size_of(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def fresh_process_bytes(
    op: str, provider: str, spec: CaseSpec, wheels: Path | None, threads: int
) -> tuple[int | None, str]:
    """Measure one call of a provider in a new process; return (bytes, ""), or (None, the error)."""
    request = {"op": op, "provider": provider, "spec": asdict(spec), "threads": threads}
    request["wheels"] = None if wheels is None else str(wheels)
    command = [sys.executable, "-m", "bench.memory", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        return None, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return int(done.stdout.strip().splitlines()[-1]), ""


def answer(request: dict[str, object]) -> int:
    torch.set_num_threads(int(str(request["threads"])))
    if request["wheels"]:
        add_wheels(Path(str(request["wheels"])))
    spec = CaseSpec(**request["spec"])  # type: ignore[arg-type]
    case = spec.build()
    name = str(request["provider"])
    provider = head_providers(str(request["op"]), spec.device, case.hidden.dtype, name.__eq__)[name]
    # compiled code needs the exact shape; for others a few rows suffice to load every library
    warm_up = case if provider.compiled else spec.with_tokens(WARM_UP_ROWS).build()
    gradients(provider, warm_up)
    del warm_up
    return extra_bytes_cpu(lambda: gradients(provider, case)[1])


if __name__ == "__main__":
    print(answer(json.loads(sys.argv[1])))
