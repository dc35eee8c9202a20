"""The reward model's scorer: scores do not depend on the order; the reward with TRL's signature."""

from __future__ import annotations

import random

import pytest
import torch

from fastrl.config import LoraConfig, ModelConfig
from fastrl.methods.tracelift.rubric import RubricReward, RubricScore, RubricScorer
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_model import RubricModel

CPU = torch.device("cpu")
ROWS = [(f"{k} + {k} = ?", f"{k} + {k} = {k + j}" + ", so" * j) for k in range(4) for j in range(5)]


def scorer_of(path, task="math", budget=16384, max_tokens=400):
    model = ModelConfig(path=str(path))
    rubric = Rubric(task, max_tokens)
    made = RubricModel.start(model, rubric, LoraConfig(rank=0), CPU, 0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.network.heads.weight.normal_(0, 0.3, generator=draw)
    return RubricScorer(made, budget)


def scores(scorer, rows, tests=None):
    return scorer.score("math", [row[0] for row in rows], [row[1] for row in rows], tests)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2"])
@pytest.mark.parametrize("budget", [1, 700, 16384])
def test_the_order_changes_no_bit(checkpoints, family, budget):
    scorer = scorer_of(checkpoints[family], budget=budget)
    wanted = dict(zip(ROWS, scores(scorer, ROWS), strict=True))
    for seed in range(3):
        rows = random.Random(seed).sample(ROWS, len(ROWS)) + ROWS[:2]
        assert [wanted[row] for row in rows] == scores(scorer, rows)


def test_batching_changes_scores_by_rounding_only(checkpoints):
    scorer = scorer_of(checkpoints["qwen3"])
    together = scores(scorer, ROWS)
    assert len({score.total for score in together}) == len(ROWS)
    for row, score in zip(ROWS, together, strict=True):
        (alone,) = scores(scorer, [row])
        assert alone.total == pytest.approx(score.total, abs=2e-6)
        assert list(alone.dimensions.values()) == pytest.approx(list(score.dimensions.values()), abs=1e-5)


def test_a_score_is_its_parts(checkpoints):
    scorer = scorer_of(checkpoints["qwen3"])
    (score,) = scores(scorer, ROWS[:1])
    assert tuple(score.dimensions) == DIMENSIONS["math"]
    assert all(0 <= value <= 4 for value in score.dimensions.values())
    derived = sum(score.dimensions.values()) / 20
    assert 0 <= 2 * score.total - derived <= 1
    assert not score.truncated
    (long,) = scores(scorer, [("7" * 600, "a")])
    assert long.truncated
    assert scores(scorer, []) == []


def test_tests_are_read(checkpoints):
    scorer = scorer_of(checkpoints["qwen3"], task="code")
    totals = [scorer.score("code", ["p"], ["t"], tests)[0].total for tests in (None, ["1 -> 2"], ["1 -> 3"])]
    assert len(set(totals)) == 3


def test_another_task_is_refused(checkpoints):
    with pytest.raises(ValueError, match=r"\[rubric\] task: expected math, .* got code"):
        scorer_of(checkpoints["qwen3"]).score("code", ["p"], ["t"])
    with pytest.raises(ValueError, match=r"\[rubric\] tokens_per_microbatch: expected >= 1, got 0"):
        scorer_of(checkpoints["qwen3"], budget=0)


class Scripted:
    """A scorer that knows how long a trace is."""

    def __init__(self):
        self.calls = []

    def score(self, task, problems, traces, tests=None):
        self.calls.append((task, list(problems), list(traces), tests))
        return [RubricScore(len(t) / 10, {"a": float(len(t)), "b": 1.0}, len(t) > 3) for t in traces]


def test_the_reward_by_hand():
    scripted, metrics, extras = Scripted(), {}, {}
    reward = RubricReward(scripted, "code", "plan")
    values = reward(
        prompts=["?", "?", "?"],
        completions=["<plan>ab</plan> 7", [{"role": "assistant", "content": "x<plan>abcd"}], "abc"],
        completion_ids=[[1], [2], [3]],
        question=["p", "p", "q"],
        tests=["in", None, "out"],
        solution=["7", "7", "8"],
        log_metric=lambda name, value: metrics.update({name: value}),
        log_extra=lambda name, column: extras.update({name: column}),
    )
    assert values == [0.2, 0.4, 0.3]
    assert scripted.calls == [("code", ["p", "p", "q"], ["ab", "abcd", "abc"], ["in", None, "out"])]
    assert metrics == pytest.approx(
        {"rubric/mean": 0.3, "rubric/truncated": 1 / 3, "rubric/a": 3.0, "rubric/b": 1.0}
    )
    assert extras["rubric"][1] == {"a": 4.0, "b": 1.0}
    assert reward.__name__ == "rubric"


def test_the_reward_of_a_real_model(checkpoints):
    scorer = scorer_of(checkpoints["llama"])
    reward = RubricReward(scorer, "math", "reasoning")
    completions = [f"<reasoning>\n{trace}\n</reasoning>\nThe end." for _, trace in ROWS]
    values = reward(["?"] * len(ROWS), completions, question=[problem for problem, _ in ROWS])
    assert values == [score.total for score in scores(scorer, ROWS)]


def test_columns_that_are_no_text_are_refused():
    reward = RubricReward(Scripted(), "math", "reasoning")
    with pytest.raises(ValueError, match=r"\[rubric\] question: expected text, got 3"):
        reward(["?"], ["a"], question=[3])
    with pytest.raises(ValueError, match=r"\[tests\]"):
        reward(["?"], ["a"], question=["q"], tests=[["1"]])
    with pytest.raises(TypeError, match="question"):
        reward(["?"], ["a"])


def test_a_failing_model_is_an_error():
    class Broken:
        def score(self, *args):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        RubricReward(Broken(), "math", "reasoning")(["?"], ["a"], question=["q"])
