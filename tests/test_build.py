"""The three build modes, and the module of this installation."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from places import ROOT

import fastrl
import fastrl._C as _C
from fastrl.kernels.grpo_loss.native import native_config
from fastrl.ops import LossConfig

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not on PATH")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def without_nvcc(folder: Path) -> dict[str, str]:
    """An environment whose PATH has the build tools and no nvcc."""
    folder.mkdir()
    for tool in (
        "cmake",
        "c++",
        "cc",
        "gcc",
        "g++",
        "ld",
        "as",
        "ar",
        "ranlib",
        "make",
        "ninja",
        "uname",
        "sh",
    ):
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "CMAKE"))}
    return kept | {"PATH": str(folder)}


def configure(
    folder: Path, mode: str, env: dict[str, str] | None = None, clones: str = "AUTO"
) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), f"-DFASTRL_CUDA={mode}", "-DFASTRL_PYTHON=OFF"]
    command += [f"-DFASTRL_TARGET_CLONES={clones}", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True)


@needs_cmake
def test_without_cuda(tmp_path):
    env = without_nvcc(tmp_path / "bin")
    for mode in ("OFF", "AUTO"):
        done = configure(tmp_path / mode, mode, env)
        assert done.returncode == 0, done.stderr
        assert f"CUDA kernels OFF (FASTRL_CUDA={mode})" in done.stdout


@needs_cmake
def test_on_without_nvcc_says_so(tmp_path):
    done = configure(tmp_path / "build", "ON", without_nvcc(tmp_path / "bin"))
    assert done.returncode != 0
    assert "[build] FASTRL_CUDA: expected nvcc on PATH" in " ".join(done.stderr.split())


@needs_cmake
def test_an_unknown_mode_is_refused(tmp_path):
    done = configure(tmp_path / "build", "MAYBE")
    assert done.returncode != 0
    assert "expected AUTO, ON or OFF, got MAYBE" in " ".join(done.stderr.split())


@needs_cmake
def test_target_clones_can_be_left_out(tmp_path):
    done = configure(tmp_path / "off", "OFF", clones="OFF")
    assert done.returncode == 0, done.stderr
    assert "FASTRL_HAS_TARGET_CLONES" not in (tmp_path / "off/compile_commands.json").read_text()
    refused = configure(tmp_path / "no", "OFF", clones="SOME")
    assert refused.returncode != 0
    words = " ".join(refused.stderr.split())
    assert "[build] FASTRL_TARGET_CLONES: expected AUTO or OFF, got SOME" in words


@needs_cmake
@needs_nvcc
@pytest.mark.parametrize(("archs", "flag"), [(None, "90a-real"), ("80-real", "80-real")])
def test_the_architecture_is_hopper_by_default(tmp_path, archs, flag):
    env = {name: value for name, value in os.environ.items() if name != "CUDAARCHS"}
    done = configure(tmp_path, "ON", env | ({"CUDAARCHS": archs} if archs else {}))
    assert done.returncode == 0, done.stderr
    assert "CUDA kernels ON" in done.stdout
    assert f"for {flag}" in done.stdout


@pytest.mark.long
@needs_cmake
def test_the_core_builds_without_python(tmp_path):
    assert configure(tmp_path / "build", "OFF", without_nvcc(tmp_path / "bin")).returncode == 0
    done = subprocess.run(
        ["cmake", "--build", str(tmp_path / "build")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr


def test_the_module_is_of_this_version():
    assert _C.version() == fastrl.__version__


def test_the_stub_lies_next_to_the_module():
    stub = Path(_C.__file__).with_name("_C.pyi").read_text()
    for name in ("score_tile", "gradient_tile", "grpo_loss_cpu", "grpo_loss_cuda", "group_advantage_cpu"):
        assert f"def {name}(" in stub


BATCH = ("cu_seqlens", "advantages", "loss_mask", "old_logprobs", "ref_logprobs", "rollout_logprobs")


def nothing(names):
    return dict.fromkeys(names, 0)


def test_cuda_without_a_gpu_says_why():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = native_config(LossConfig())
    batch = _C.GrpoBatch.of(
        tokens=0, sequences=0, denominator=1, advantages_per_token=False, **nothing(BATCH)
    )
    selection, scores = _C.GrpoSelection.of(0, 0), _C.GrpoScores.of(0, 0, 0, 0, 0, 0)
    results = _C.GrpoResults.of(0, 0, 0)
    words = "launch: expected success" if _C.cuda_built() else "expected a build with CUDA, got one without"
    with pytest.raises(RuntimeError, match=rf"\[grpo_loss\] .*{words}|\[grpo_loss\] {words}"):
        _C.grpo_loss_cuda(batch, selection, scores, config, results, scratch=0, stream=0)
