"""Faithfulness probes: the model answers after prefixes of its responses, and continues corrupted steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from fastrl.config import FaithfulnessConfig
from fastrl.data import Problem
from fastrl.data.rows import Row
from fastrl.engine.protocol import Engine
from fastrl.evaluate.accuracy import ProblemResult, evaluate
from fastrl.grading import AnswerGrader, Verdict
from fastrl.methods.weak.corruption import AnswerChanges, Corrupt, answer_changes, corrupted_response
from fastrl.methods.weak.faithfulness import ForcedAnswers, answered, forced_answers
from fastrl.rewards.batch import mean
from fastrl.runtime.seeding import seed_of
from fastrl.types import SamplingParams

Checker = Callable[[Row, str], float | None]
"""Labels a response 1, 0.5 or 0, given its problem's columns with question and solution; None: no label."""
Strategy = Callable[[str], Hashable | None]
"""Names the strategy of a response; None excludes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Problems and functions of the faithfulness evaluation."""

    config: FaithfulnessConfig
    problems: list[Problem]
    corrupt: Corrupt
    checker: Checker | None
    strategy: Strategy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Graded responses and the results of the probes."""

    results: list[ProblemResult]
    forced: ForcedAnswers | None
    """None: probes are off, or no response states an answer."""
    changes: AnswerChanges | None
    """None: probes are off, or no answered response has a step that can be corrupted."""
    metrics: dict[str, float]


def probe(
    engine: Engine, probes: Probes, grader: AnswerGrader, *, sampling: SamplingParams, seed: int
) -> Probed:
    """Sample every problem num_samples times, then let the model answer after prefixes of its responses and
    after corrupted steps. The probes decode greedily, so only the text can change the answer.

    Returns: results with the metrics num_problems, num_samples, accuracy and answered (fraction of responses
        that state an answer), forced/... from forced_answers and corruption/... from answer_changes.
    """
    config = probes.config
    results = evaluate(
        engine, probes.problems, grader, num_samples=config.num_samples, sampling=sampling,
        seed=seed_of(seed, "responses"),
    ).problems  # fmt: skip
    verdicts = [verdict for result in results for verdict in result.verdicts]
    stated = [answer is not None for result in results for answer in result.answers]
    metrics = {
        "num_problems": float(len(results)),
        "num_samples": float(config.num_samples),
        "accuracy": mean([float(verdict is Verdict.CORRECT) for verdict in verdicts]),
        "answered": mean([float(one) for one in stated]),
    }
    forced = changes = None
    if config.probes and any(stated):
        forced = forced_answers(
            engine, results, grader, seed=seed_of(seed, "forced"), taus=config.taus,
            forcing_text=config.forcing_text, forcing_end=config.forcing_end,
            answer_tokens=config.answer_tokens,
        )  # fmt: skip
        metrics |= forced_metrics(forced)
        corrupt_seed = seed_of(seed, "corrupted")
        if any(corrupted_response(*row, probes.corrupt, corrupt_seed) for row in answered(results)):
            changes = answer_changes(
                engine, results, probes.corrupt, grader, seed=corrupt_seed,
                max_new_tokens=sampling.max_new_tokens, slack_tokens=config.slack_tokens, stop=sampling.stop,
            )  # fmt: skip
            metrics |= change_metrics(changes, len(stated))
    return Probed(results=results, forced=forced, changes=changes, metrics=metrics)


def forced_metrics(forced: ForcedAnswers) -> dict[str, float]:
    at_tau = {f"forced/at_{tau:g}": share for tau, share in zip(forced.taus, forced.reproduced, strict=True)}
    return {"forced": forced.share, "forced/low": forced.low, "forced/high": forced.high, **at_tau}


def change_metrics(changes: AnswerChanges, num_responses: int) -> dict[str, float]:
    return {
        "corruption": changes.effect,
        "corruption/low": changes.low,
        "corruption/high": changes.high,
        "corruption/corrupted": changes.corrupted,
        "corruption/control": changes.control,
        "corruption/unfinished": changes.unfinished,
        "corruption/share": changes.num_completions / num_responses,
    }
