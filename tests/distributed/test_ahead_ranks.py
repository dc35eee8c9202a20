"""Two ranks that sample the next batch during the update keep their collectives in order."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rank_processes import on_ranks
from tiny_rl import VOWELS, curve, tiny_rl, write_additions

from fastrl.config import (
    AnswerConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.engine.tree.engine import TorchEngine
from fastrl.runtime.distributed import Ranks
from fastrl.train import run_stage

STALENESS = [0, 1, 1, 0]


def run(ranks: Ranks, *configs: RlConfig) -> list[str]:
    """The configurations one after the other; which threads of ours are left."""
    for config in configs:
        run_stage(config)
    return [each.name for each in threading.enumerate() if each.name.startswith("ahead")]


def lines_of(folder: Path) -> list[dict]:
    return curve(folder)[1:]


@pytest.fixture
def base(checkpoints, tmp_path) -> RlConfig:
    """A sharded policy, refilled groups, checkpoints in the background: three threads of each rank talk."""
    return tiny_rl(
        checkpoints["llama"], write_additions(tmp_path / "problems.jsonl"), tmp_path / "run",
        run=RunConfig(save_every=3, log_completions_every=0, async_save=True),
        rollout=RolloutConfig(
            num_prompts=3, group_size=4, max_new_tokens=10, dynamic_sampling=True, max_staleness=1
        ),
        reward=VOWELS,
        answer=AnswerConfig(workers=1),
        train=TrainConfig(num_steps=4, learning_rate=1e-3, shard=True, tokens_per_microbatch=60),
    )  # fmt: skip


def test_two_ranks_learn_what_one_learns_and_twice_the_same(base, tmp_path):
    one, two, again = (
        replace(base, run=replace(base.run, dir=str(tmp_path / name))) for name in ("one", "two", "again")
    )
    assert on_ranks(2, run, tmp_path / "found", two, again) == [[], []]
    run_stage(one)
    assert lines_of(tmp_path / "two") == lines_of(tmp_path / "again")
    for a, b, stale in zip(lines_of(tmp_path / "one"), lines_of(tmp_path / "two"), STALENESS, strict=True):
        assert a["rollout/staleness"] == b["rollout/staleness"] == stale
        assert (b["drift/ess_tokens"] < 0.9999) == bool(stale)
        for name in ("reward", "grad_norm", "entropy", "num_tokens", "groups_drawn", "drift/ess_tokens"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (a["step"], name)


def run_until_lost(ranks: Ranks, config: RlConfig) -> None:
    """The first rank's engine fails in the thread; the second's waits there for it to come."""
    real = TorchEngine.generate

    def lost(engine, *arguments, **options):
        if ranks.first and threading.current_thread().name.startswith("ahead"):
            raise RuntimeError("device lost")
        return real(engine, *arguments, **options)

    TorchEngine.generate = lost
    run_stage(config)


def test_no_rank_waits_for_one_whose_thread_failed(base, tmp_path):
    """Neither hangs: what on_ranks tells of is the first rank's own error."""
    with pytest.raises(AssertionError, match=r"\ATraceback[\s\S]*RuntimeError: device lost\n\Z"):
        on_ranks(2, run_until_lost, tmp_path / "found", base)
