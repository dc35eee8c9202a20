"""Triton's kernels compile ahead of time for other GPUs and fit their registers."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
from places import ROOT

pytest.importorskip("triton", reason="triton is not installed")

from fastrl.kernels.group_advantage import triton_impl
from fastrl.kernels.grpo_loss import triton_kernels as token_kernels
from fastrl.kernels.linear_logprob import triton_kernels as row_kernels
from fastrl.kernels.prefix_attention import triton_kernels as prefix_kernels
from fastrl.kernels.tree_decode import triton_kernels as decode_kernels

KERNELS = {
    name: kernel
    for module in (row_kernels, token_kernels, triton_impl, decode_kernels, prefix_kernels)
    for name, kernel in vars(module).items()
    if name.endswith("_kernel")
}
# What may differ between compiled versions; that None is given for a tensor is the only other thing.
SPECIALISED = {
    "BLOCK", "ALIGNED", "CAPPED",
    "POLICY", "KL", "KL_RATIO", "CORRECTION", "SEQUENCE_RATIO", "SEQUENCE_CORRECTION", "SEQUENCE_MEAN",
    "PER_TOKEN", "LEAVE_OUT", "WHOLE", "SCALE", "BASELINE",
    "WINDOWED", "DOT", "TRUNK_M", "TAIL_M", "BLOCK_N", "BLOCK_K", "BLOCK_V", "BLOCK_P",
    "HEAD", "HEAD_VALUE", "BLOCK_HEAD", "BLOCK_VALUE", "TILE_QUERY", "TILE_KEY",
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_no_length_is_compiled_for(name):
    parameters = inspect.signature(KERNELS[name].fn).parameters.values()
    constants = {each.name for each in parameters if "constexpr" in str(each.annotation)}
    assert constants <= SPECIALISED
    assert {each.name for each in parameters if each.name.isupper()} == constants


@pytest.mark.long
def test_nothing_spills():
    """In a process where Triton does not interpret; a length that is not marked as one fails to compile.

    For Hopper; `make resources` compiles for all.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench.resources", "--triton-only", "--archs", "sm_90a"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in KERNELS:
        assert f"triton {name.removesuffix('_kernel')}" in done.stdout.replace("floors", "floor"), name
