"""A full disk, too little memory, an engine that hangs or dies, an infinite gradient: the error's text, and
that the same command resumes to the files of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from fault_world import bits, fault_config
from places import TESTS
from tiny_rl import curve

from fastrl.config.load import to_yaml

CODES = {
    "none": 0, "hang": 124, "engine": 1, "memory_of_an_engine": 2, "memory_of_the_update": 2,
    "memory_of_the_host": 2, "nan": 2, "disk": 2, "disk_beside": 2,
    "torn": 2,
}  # fmt: skip
RESUMES = "same command resumes from the last checkpoint"
SAYS = {
    "hang": ["phase 'rollout' on rank 0 has taken more than 6 s", RESUMES, "faulty_run.py", "in run_rl"],
    "engine": [
        "EngineDied: [engine] policy: failed in phase 'rollout': RuntimeError: device lost. Nothing", RESUMES
    ],
    "memory_of_an_engine": [
        "[engine] max_batch_tokens: out of memory in phase 'rollout' with 65536; try "
        "--engine.max_batch_tokens 32768 or --engine.sleep true",
        RESUMES,
    ],
    "memory_of_the_update": [
        "[train] tokens_per_microbatch: out of memory in phase 'update' with 16384; try "
        "--train.tokens_per_microbatch 8192 or --model.gradient_checkpointing true",
        "(OutOfMemoryError: CUDA out of memory. Tried to)",
    ],
    "memory_of_the_host": ["[train] tokens_per_microbatch: out of memory in phase 'update'", "(MemoryError"],
    "nan": ["[train] gradient norm is inf at step 2: no weight was changed by it. 1 in a row"],
    "disk": [
        "[run] dir: the disk is full: ",
        "bytes are free, a checkpoint takes ",
        "Saved checkpoints are intact",
    ],
    "disk_beside": ["[run] dir: the disk is full: ", "a checkpoint takes ", "Saved checkpoints are intact"],
    "torn": ["[run] dir: the disk is full: ", "File too large", "bytes are free, a checkpoint takes "],
}  # fmt: skip


@pytest.fixture(scope="module")
def world(checkpoints, tmp_path_factory):
    """What was seen of every fault, and the folder of the runs."""
    folder = tmp_path_factory.mktemp("faults")
    config = fault_config(checkpoints["qwen3"], folder, "runs")
    config = replace(config, run=replace(config.run, hang_timeout_s=6.0))
    (folder / "recipe.yaml").write_text(to_yaml(config))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    command = [
        sys.executable,
        str(TESTS / "training/faults/faulty_run.py"),
        str(folder / "recipe.yaml"),
        *CODES,
    ]
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), folder / "runs"


@pytest.mark.parametrize("fault", list(CODES))
def test_the_run_resumes_and_nothing_is_lost(world, fault):
    found, folder = world[0][fault], world[1]
    assert found["code"] == CODES[fault], found["said"]
    assert found["again"] == 0, found["again_said"]
    assert curve(folder / fault) == curve(folder / "none")
    assert bits(folder / fault) == bits(folder / "none")


@pytest.mark.parametrize("fault", list(SAYS))
def test_the_error_names_the_fault(world, fault):
    said = world[0][fault]["said"]
    for words in SAYS[fault]:
        assert words in said, said


@pytest.mark.parametrize("fault", list(SAYS))
def test_no_checkpoint_is_half(world, fault):
    found = world[0][fault]
    assert found["saved"] == ["step-000002"]
    assert found["damaged"] == [] and found["left"] == []
    assert found["torn"] == (fault == "torn")


def test_a_full_disk_is_reported_in_bytes(world):
    """The model's parameters, twice again for the moments and four bytes for each parameter's step."""
    found, folder = world[0]["disk"], world[1] / "none/checkpoints/step-000006"
    needed = int(found["said"].split("a checkpoint takes ")[1].split(".")[0].replace(",", ""))
    on_disk = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    headers = on_disk - needed
    assert 0 < headers < 12_000 and needed > 10 * headers
