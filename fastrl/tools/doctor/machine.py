"""Checks this machine: packages, device, kernels, and an op against its reference."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

from packaging.version import Version

from fastrl.runtime.versions import package_version
from fastrl.tools.doctor.environment import room, variables

Status = Literal["ok", "warn", "fail", "info"]
MARKS = {"ok": "+", "warn": "!", "fail": "x", "info": " "}


@dataclass(frozen=True, slots=True)
class Line:
    """One finding."""

    status: Status
    subject: str
    finding: str


@dataclass(frozen=True, slots=True)
class Supported:
    """Supported versions of a package."""

    first: str = "0"
    """Older versions don't work."""
    below: str | None = None
    """This version and later ones are untested."""
    tested: tuple[str, ...] = ()
    """Versions that the test suite has run with; empty: any."""

    def __str__(self) -> str:
        return f"{self.first} or later" if self.below is None else f"{self.first} to below {self.below}"


REQUIRED = {
    "torch": Supported("2.11", "2.15", ("2.13.0",)),
    "transformers": Supported("5.10", "5.21", ("5.19.0", "5.20.2")),
    "numpy": Supported(),
    "safetensors": Supported(),
    "math-verify": Supported("0.9", "0.10"),
    "sympy": Supported(),
    "tyro": Supported("1.0", "2.0"),
    "jinja2": Supported("3.1.6"),
    "rich": Supported(),
    "pyyaml": Supported(),
    "matplotlib": Supported(),
    "pandas": Supported(),
    "pyarrow": Supported("14.0.1"),
}
OPTIONAL = {
    "triton": "GPU kernels",
    "flash-attn": "packed attention on a GPU",
    "trl": "fastrl's rewards and losses inside TRL",
    "trackio": "run.report_to trackio",
    "wandb": "run.report_to wandb",
    "tensorboard": "run.report_to tensorboard",
}
OPS = ("group_advantage", "grpo_loss", "linear_logprob", "linear_grpo_loss", "logits_grpo_loss")
SELF_CHECK_LIMIT = 2e-5


def machine_report() -> tuple[bool, str]:
    """Return True if training can start here, and the text of all checks."""
    sections = [("python", python_lines()), ("packages", package_lines()), ("device", device_lines())]
    sections += [("kernels", kernel_lines()), ("optional", optional_lines())]
    sections += [("environment", environment_lines())]
    text: list[str] = []
    healthy = True
    for title, found in sections:
        lines = list(found)
        healthy = healthy and all(line.status != "fail" for line in lines)
        text += section(title, lines)
    text.append("ready for training" if healthy else "training can't start: see the lines marked x")
    return healthy, "\n".join(text)


def section(title: str, lines: Sequence[Line]) -> list[str]:
    """Return a section as lines of text."""
    return [title, *(f"  {MARKS[line.status]} {line.subject:<18} {line.finding}" for line in lines)]


def python_lines() -> Iterator[Line]:
    version = platform.python_version()
    yield Line("ok" if sys.version_info >= (3, 10) else "fail", "python", f"{version} (needs 3.10 or later)")
    yield Line("info", "fastrl", package_version("fastrl") or "not installed, imported from a folder")
    yield Line("info", "system", f"{platform.system()} {platform.machine()}")


def package_lines() -> Iterator[Line]:
    for name, supported in REQUIRED.items():
        yield judge_version(name, package_version(name), supported)


def judge_version(name: str, version: str | None, supported: Supported) -> Line:
    """Compare a required package's version with the supported range."""
    if version is None:
        return Line("fail", name, "missing")
    if Version(version) < Version(supported.first):
        return Line("fail", name, f"{version} is too old; supported is {supported}")
    # release segments are compared, so that 2.15.0rc1 counts as 2.15
    if supported.below is not None and Version(version).release >= Version(supported.below).release:
        return Line("warn", name, f"{version} is newer than supported ({supported})")
    if supported.tested and Version(version).base_version not in supported.tested:
        return Line("ok", name, f"{version} (allowed; tested with {' and '.join(supported.tested)})")
    return Line("ok", name, version)


def device_lines() -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if package_version("torch") is None:
        yield Line("info", "cpu", f"{cores} cores")
        return
    import torch

    threads = torch.get_num_threads()
    note = "" if threads <= cores else ", more threads than cores: set OMP_NUM_THREADS"
    yield Line("warn" if note else "ok", "cpu", f"{cores} cores, torch uses {threads} threads{note}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = (
            "this torch is a CPU build"
            if built is None
            else f"torch is built for CUDA {built} and sees no device"
        )
        yield Line("info", "gpu", f"none: {reason}; everything runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        memory = card.total_memory / 2**30
        yield Line("ok", f"cuda:{index}", f"{card.name}, sm_{card.major}{card.minor}, {memory:.0f} GiB")


def kernel_lines() -> Iterator[Line]:
    if package_version("torch") is None:
        yield Line("fail", "ops", "torch is missing")
        return
    import torch

    if find_spec("fastrl._C") is None:
        yield Line(
            "fail",
            "compiled core",
            "fastrl._C is missing: install with pip install . (a C++ compiler is needed)",
        )
        return
    core = import_module("fastrl._C")
    cuda = "with" if core.cuda_built() else "without"
    yield Line("ok", "compiled core", f"{core.version()}, {cuda} CUDA kernels")
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    for op in OPS:
        for device in devices:
            yield op_line(op, device)
    yield self_check()


def op_line(op: str, device: object) -> Line:
    """List the implementations of an op that run on a device; backend "auto" takes the first."""
    import torch

    implementations = import_module(f"fastrl.kernels.{op}").IMPLEMENTATIONS
    usable = [
        implementation.name
        for implementation in implementations
        if implementation.unusable(device, torch.float32) is None
    ]
    finding = f"{device}: {', '.join(usable)}" if usable else f"{device}: nothing runs"
    return Line("ok" if usable else "fail", op, finding)


def self_check() -> Line:
    """Compare linear_logprob with backend "auto" against the float64 reference on a small case."""
    import torch

    from fastrl.ops import linear_logprob

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(33, 16, generator=generator)
    weight = torch.randn(257, 16, generator=generator)
    ids = torch.randint(257, (33,), generator=generator)
    found = linear_logprob(hidden, weight, ids).logprobs.double()
    truth = linear_logprob(hidden.double(), weight.double(), ids, backend="reference").logprobs.double()
    error = float((found - truth).abs().max())
    status: Status = "ok" if error <= SELF_CHECK_LIMIT else "fail"
    return Line(status, "self-check", f"linear_logprob is {error:.1e} from its float64 reference")


def environment_lines() -> Iterator[Line]:
    """Yield room and variables, without secrets' values and home paths."""
    for name, finding in (*room(), *variables(os.environ)):
        yield Line("info", name, finding)


def optional_lines() -> Iterator[Line]:
    for name, purpose in OPTIONAL.items():
        version = package_version(name)
        yield Line("info" if version is None else "ok", name, f"{version or 'not installed'} ({purpose})")
    yield vllm_line()
    yield sandbox_line()


def vllm_line() -> Line:
    """Check vLLM, whose package has two names, with the check that engines make at start."""
    if package_version("torch") is None:
        return Line("info", "vllm", "needs torch, which is missing")
    from fastrl.engine.vllm.adapter import unusable, version

    found, reason = version(), unusable()
    if found is None:
        return Line("info", "vllm", "not installed (engine.kind vllm)")
    return (
        Line("ok", "vllm", f"{found} (engine.kind vllm)") if reason is None else Line("warn", "vllm", reason)
    )


def sandbox_line() -> Line:
    """Check the sandbox by running a program in it."""
    if package_version("torch") is None:
        return Line("info", "sandbox", "needs torch, which is missing")
    from fastrl.grading.programs.runner import sandbox_missing

    reason = sandbox_missing()
    if reason is None:
        return Line("ok", "sandbox", "works (executor.task code)")
    return Line("warn", "sandbox", f"none: {reason}")
