"""Whole runs on several ranks: the curve of one rank for any number of ranks, also after a resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from places import TESTS
from rank_processes import free_port, on_ranks, placed, runs_of, stages
from tiny_rl import VOWELS, tiny_rl, write_additions
from transformers import AutoModelForCausalLM

from fastrl.config import (
    AnswerConfig,
    EvalConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.config.load import to_yaml
from fastrl.kernels.config import LossConfig
from fastrl.runtime.run import read_metrics

SEEN = ("reward", "grad_norm", "entropy", "num_tokens", "num_tokens_trained", "groups_drawn", "kl")


@pytest.fixture(scope="module")
def configs(checkpoints, tmp_path_factory) -> dict[str, RlConfig]:
    """plain: ten even steps. uneven: three groups, so that of four ranks one has nothing; a reference, two
    updates a step, refilled groups, and evaluations of which the best checkpoint is kept. split: five groups,
    learnt from in two parts by policies that every rank holds whole; of four ranks one has two groups."""
    folder = tmp_path_factory.mktemp("data")
    path = write_additions(folder / "problems.jsonl")
    plain = tiny_rl(
        checkpoints["llama"], path, folder / "run",
        run=RunConfig(save_every=0, log_completions_every=0),
        rollout=RolloutConfig(num_prompts=4, group_size=4, max_new_tokens=12),
        reward=VOWELS,
        answer=AnswerConfig(workers=1),
        train=TrainConfig(num_steps=10, learning_rate=1e-3, shard=True, tokens_per_microbatch=100),
    )  # fmt: skip
    uneven = replace(
        plain,
        run=RunConfig(save_every=1, keep_last=1, keep_best="eval/avg@1", async_save=True),
        rollout=replace(plain.rollout, num_prompts=3, dynamic_sampling=True),
        loss=LossConfig(kl_coef=0.1),
        train=replace(plain.train, num_steps=3, epochs_per_batch=2),
        eval=EvalConfig(path=str(path), every=1, limit=2, num_samples=1),
    )
    split = replace(
        plain,
        rollout=replace(plain.rollout, num_prompts=5),
        train=replace(plain.train, num_steps=3, updates_per_epoch=2, shard=False),
    )
    return {"plain": plain, "uneven": uneven, "split": split}


@pytest.fixture(scope="module")
def runs(configs, tmp_path_factory) -> dict[int, Path]:
    """Number of ranks -> where their runs are."""
    return runs_of(configs, (1, 4), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def runs_of_two(configs, tmp_path_factory) -> dict[int, Path]:
    return runs_of(configs, (2,), tmp_path_factory.mktemp("runs_of_two"))


def check_equal(one: list[dict], many: list[dict]) -> None:
    assert [line["step"] for line in one] == [line["step"] for line in many]
    for a, b in zip(one, many, strict=True):
        assert b.get("loss", 0.0) == pytest.approx(a.get("loss", 0.0), abs=1e-6)
        for name in a.keys() & set(SEEN):
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), (a["step"], name)


def evaluation_of(line: dict) -> dict[str, float]:
    return {name: value for name, value in line.items() if name.startswith("eval/")}


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "uneven", "split"])
def test_two_ranks_have_the_curve_of_one(runs, runs_of_two, name):
    check_runs(runs[1] / name, runs_of_two[2] / name, name)


@pytest.mark.parametrize("name", ["plain", "uneven", "split"])
def test_four_ranks_have_the_curve_of_one(runs, name):
    check_runs(runs[1] / name, runs[4] / name, name)


def check_runs(one_folder: Path, many_folder: Path, name: str) -> None:
    one, many = (read_metrics(folder / "metrics.jsonl") for folder in (one_folder, many_folder))
    assert max(line.get("grad_norm", 0) for line in one) > 0
    check_equal(one, many)
    for a, b in zip(one, many, strict=True):
        assert evaluation_of(b) == pytest.approx(evaluation_of(a), abs=1e-6)
    assert (name == "uneven") == bool(evaluation_of(one[0]))


@pytest.mark.parametrize("size", [1, 4])
def test_the_last_and_the_best_checkpoint_are_kept(runs, size):
    folder = runs[size] / "uneven"
    lines = read_metrics(folder / "metrics.jsonl")
    scores = {line["step"]: line["eval/avg@1"] for line in lines if line["step"]}
    best = max(scores, key=lambda step: (scores[step], step))
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == sorted({f"step-{step:06d}" for step in (best, 3)})
    AutoModelForCausalLM.from_pretrained(folder / "checkpoints" / kept[-1])


def test_a_checkpoint_of_four_ranks_resumes_on_two_and_one(configs, runs, tmp_path):
    """The same curve, and of its end the same evaluation."""
    evaluated = EvalConfig(path=configs["uneven"].eval.path, num_samples=4)
    begun = replace(configs["plain"], train=replace(configs["plain"].train, num_steps=2), eval=evaluated)
    on_ranks(4, stages, tmp_path / "found4", placed(begun, tmp_path / "four"))
    whole = read_metrics(runs[1] / "plain/metrics.jsonl")
    ends = []
    for size in (2, 1):
        folder = tmp_path / f"on{size}"
        shutil.copytree(tmp_path / "four", folder)
        longer = replace(begun, train=replace(begun.train, num_steps=4))
        on_ranks(size, stages, tmp_path / f"found{size}", placed(longer, folder))
        lines = read_metrics(folder / "metrics.jsonl")
        check_equal(
            [each for each in whole if 1 <= each["step"] <= 4], [each for each in lines if each["step"]]
        )
        ends.append(evaluation_of(lines[-1]))
    assert ends[0] == ends[1] and ends[0]["eval/mean_length"] > 0


@pytest.mark.long
def test_two_groups_of_torchrun_are_one_run(configs, runs, tmp_path):
    """As on two machines, which see one run folder."""
    config = replace(configs["plain"], train=replace(configs["plain"].train, num_steps=2))
    (tmp_path / "run.yaml").write_text(to_yaml(placed(config, tmp_path / "run")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    port = str(free_port())
    nodes = [
        subprocess.Popen(
            [
                sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node),
                "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port,
                "-m", "fastrl.train", str(tmp_path / "run.yaml"),
            ],
            env=environment,
        )
        for node in range(2)
    ]  # fmt: skip
    try:
        assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    finally:
        for node in nodes:
            node.kill()
    whole = read_metrics(runs[1] / "plain/metrics.jsonl")
    check_equal([line for line in whole if line["step"] <= 2], read_metrics(tmp_path / "run/metrics.jsonl"))


def test_unsupported_settings_are_refused(configs):
    for name in ("offload", "shard_gradients"):
        with pytest.raises(ValueError, match=rf"\[train\] {name}"):
            TrainConfig(**{name: True})
    with pytest.raises(ValueError, match=r"\[run\] keep_best"):
        replace(configs["plain"], run=RunConfig(keep_best="eval/avg@1"))
    with pytest.raises(ValueError, match=r"\[train\] shard.*entropy"):
        replace(configs["plain"], reward=RewardConfig(functions=("entropy",), weights=(1.0,)))
