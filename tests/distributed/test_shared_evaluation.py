"""Evaluations shared over ranks give the metrics and completions of one rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import on_ranks

from fastrl.config import CheckpointConfig, EngineConfig, ExecutorConfig
from fastrl.data import Problem
from fastrl.engine.tree.engine import TorchEngine
from fastrl.evaluate.accuracy import evaluate
from fastrl.evaluate.sharing import share
from fastrl.grading import AnswerGrader
from fastrl.methods.tracelift.build import build_executor
from fastrl.methods.tracelift.two_stage import sample_traces, two_stage
from fastrl.runtime.distributed import Ranks
from fastrl.types import SamplingParams

CPU = torch.device("cpu")
SAMPLING = SamplingParams(max_new_tokens=10, temperature=1.0)


def problems(count: int) -> list[Problem]:
    return [
        Problem(
            index=3 * k,
            messages=[{"role": "user", "content": f"{k}+{k}"}],
            question=f"{k}+{k}",
            solution=str(2 * k),
            columns={},
        )
        for k in range(count)
    ]


def measured(ranks: Ranks, path: str, count: int, out: str | None = None) -> dict[str, Any]:
    """Of the policy alone, and of the same model as an executor of its own traces."""
    engine = TorchEngine.from_pretrained(path, dtype=torch.float32, device=CPU)
    executor = build_executor(
        ExecutorConfig(model=CheckpointConfig(path=path), max_new_tokens=8), EngineConfig(), CPU
    )
    mine = share(problems(count), ranks)
    with AnswerGrader(num_workers=1) as grader:
        alone = evaluate(
            engine, mine, grader, num_samples=4, sampling=SAMPLING, seed=5, ranks=ranks,
            path=Path(out) if out and ranks.first else None,
        )  # fmt: skip
    traces = sample_traces(engine, mine, num_samples=2, sampling=SAMPLING, seed=5)
    both = two_stage(executor, mine, traces, trace_tag="reasoning", seed=5, ranks=ranks)
    executor.verifier.close()
    return {
        "alone": alone.metrics,
        "texts": [[each.text for each in result.completions] for result in alone.problems],
        "both": both.metrics,
        "answers": [[each.text for each in result.answers + result.baseline] for result in both.problems],
        "worked": len(mine),
    }


def test_ranks_have_the_metrics_of_one_rank(checkpoints, tmp_path):
    path, out = str(checkpoints["llama"]), str(tmp_path / "completions.jsonl")
    (one,) = on_ranks(1, measured, tmp_path / "one", path, 5)
    two = on_ranks(2, measured, tmp_path / "two", path, 5, out)
    assert one.pop("worked") == 5 and sorted(found.pop("worked") for found in two) == [2, 3]
    assert two == [one, one]
    assert one["alone"]["num_problems"] == one["both"]["num_problems"] == 5
    assert len({text for texts in one["texts"] for text in texts}) > 15
    assert len(Path(out).read_text().splitlines()) == 5 * 4


def test_a_rank_may_have_nothing_to_measure(checkpoints, tmp_path):
    path = str(checkpoints["llama"])
    (one,) = on_ranks(1, measured, tmp_path / "one", path, 2)
    three = on_ranks(3, measured, tmp_path / "three", path, 2)
    assert one.pop("worked") == 2 and [found.pop("worked") for found in three] == [1, 1, 0]
    assert three == [one] * 3


def test_what_is_shared_by_size_is_even_and_each_item_is_somebodys():
    """By hand: 9 and 2 are dealt to and fro, so 9 | 7 | 6, then 6 | 4 | 2 the other way."""
    sizes = [4, 9, 6, 2, 7, 6]
    shares = [Ranks(rank, 3).share(sizes) for rank in range(3)]
    assert shares == [[1, 3], [0, 4], [2, 5]]
    assert [sum(sizes[index] for index in share) for share in shares] == [11, 11, 12]
    assert Ranks().share(sizes) == [0, 1, 2, 3, 4, 5] and Ranks(3, 4).share([5, 5, 5]) == []


def test_none_at_all_is_refused(checkpoints):
    with pytest.raises(ValueError, match=r"\[evaluate\] problems: expected at least one"):
        evaluate(None, [], None, num_samples=1, sampling=SAMPLING, seed=0)
