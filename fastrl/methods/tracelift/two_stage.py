"""Two-stage evaluation: accuracy of a frozen executor with the planner's traces and without them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrl.data import Problem, render_prompt, reward_row
from fastrl.engine.protocol import Engine
from fastrl.evaluate.metrics import bootstrap_interval
from fastrl.evaluate.sharing import together
from fastrl.methods.tracelift.executor import Answer, Executor, ExecutorRequest, success_rate
from fastrl.rewards.batch import mean
from fastrl.rewards.traces import trace_of
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.files import replacing
from fastrl.runtime.seeding import seed_of
from fastrl.types import Completion, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageProblem:
    """One problem's traces and the executor's answers."""

    problem: Problem
    completions: list[Completion]
    """The planner's completions."""
    traces: list[str]
    answers: list[Answer]
    """The executor's answers, one per trace."""
    baseline: list[Answer]
    """The executor's answers without a trace, as many as `answers`."""
    leaks: list[bool]
    """True for traces that state the answer or the program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageResult:
    """An evaluation's problems and metrics."""

    problems: list[TwoStageProblem]
    metrics: dict[str, float]
    """Means over problems; `name/low` and `name/high` bound a 95 % interval."""


def sample_traces(
    planner: Engine, problems: Sequence[Problem], *, num_samples: int, sampling: SamplingParams, seed: int
) -> list[list[Completion]]:
    """Sample num_samples completions per problem; draws of sample j depend only on (seed, row, j)."""
    prompts = [render_prompt(planner.tokenizer, problem.messages) for problem in problems]
    seeds = [seed_of(seed, "evaluate", problem.index) for problem in problems]
    return planner.generate(prompts, sampling, seeds=seeds, n=num_samples) if problems else []


def two_stage(
    executor: Executor,
    problems: Sequence[Problem],
    completions: Sequence[Sequence[Completion]],
    *,
    trace_tag: str,
    seed: int,
    path: Path | None = None,
    ranks: Ranks | None = None,
) -> TwoStageResult:
    """Let the executor answer once with every trace, and as often per problem without a trace.

        two_stage_avg@n      = mean over problems of the fraction of correct answers with a trace
        executor_alone_avg@n = the same without a trace
        uplift               = their difference per problem, averaged

    Also leak, the fraction of traces that state the answer or the program; trace_length, in the planner's
    tokens; fractions of truncated traces and answers; and for code the mean pass rates. Answers without a
    trace draw from (seed, row, sample) and are cached, so later evaluations have the same baseline.

    Args:
        completions: from sample_traces, n >= 1 per problem.
        trace_tag: see trace_of.
        path: JSONL file for all traces and answers.
        ranks: ranks that evaluate other problems at the same time; the result covers all of them. A rank may
            have no problems if there are several ranks.
    """
    ranks = ranks or Ranks()
    if problems or ranks.size == 1:
        check_counts(problems, completions)
    num_samples = len(completions[0]) if completions else 0
    rows = [reward_row(problem) for problem in problems]
    references = [executor.verifier.reference(row) for row in rows]
    traces = [[trace_of(sample.text, trace_tag) for sample in samples] for samples in completions]
    requests = [
        ExecutorRequest(
            question=row["question"], trace=trace, reference=reference, num_samples=1,
            seed=seed_of(seed, "two_stage", problem.index, j),
        )
        for problem, row, reference, own in zip(problems, rows, references, traces, strict=True)
        for j, trace in enumerate(own)
    ]  # fmt: skip
    baselines = [
        ExecutorRequest(
            question=row["question"], trace=None, reference=reference, num_samples=num_samples, cache=True,
            seed=seed_of(seed, "alone", problem.index),
        )
        for problem, row, reference in zip(problems, rows, references, strict=True)
    ]  # fmt: skip
    answers = executor.run([*requests, *baselines]) if problems else []
    primary = iter(answers[: len(requests)])
    results = [
        TwoStageProblem(
            problem=problem,
            completions=list(samples),
            traces=own,
            answers=[next(primary)[0] for _ in own],
            baseline=without,
            leaks=[executor.verifier.leaks(trace, reference) for trace in own],
        )
        for problem, samples, own, without, reference in zip(
            problems, completions, traces, answers[len(requests) :], references, strict=True
        )
    ]
    results = together(results, ranks)
    if path is not None:
        write_answers(path, results)
    return TwoStageResult(problems=results, metrics=summarize(results, executor, seed))


def summarize(results: Sequence[TwoStageProblem], executor: Executor, seed: int) -> dict[str, float]:
    """Compute the metrics of two_stage from checked answers."""
    n = len(results[0].traces)
    metrics = {"num_problems": float(len(results)), "num_samples": float(n)}

    def add(name: str, values: Sequence[float]) -> None:
        low, high = bootstrap_interval(values, seed=seed_of(seed, "interval"))
        metrics.update({name: mean(values), f"{name}/low": low, f"{name}/high": high})

    helped = [success_rate(result.answers) for result in results]
    baseline = [success_rate(result.baseline) for result in results]
    add(f"two_stage_avg@{n}", helped)
    add(f"executor_alone_avg@{n}", baseline)
    add("uplift", [a - b for a, b in zip(helped, baseline, strict=True)])
    answers = [answer for result in results for answer in result.answers]
    completions = [completion for result in results for completion in result.completions]
    metrics["leak"] = mean([float(leak) for result in results for leak in result.leaks])
    metrics["trace_length"] = mean([float(len(sample.token_ids)) for sample in completions])
    metrics["trace_unfinished"] = mean([float(sample.finish_reason == "length") for sample in completions])
    metrics["answer_unfinished"] = mean([float(answer.finish_reason == "length") for answer in answers])
    labels = Counter(answer.checked.label for answer in answers)
    metrics |= {label: labels[label] / len(answers) for label in executor.verifier.labels}
    if executor.verifier.task == "code":
        metrics["two_stage_pass_rate"] = mean([answer.checked.pass_rate for answer in answers])
        metrics["executor_alone_pass_rate"] = mean([a.checked.pass_rate for r in results for a in r.baseline])
    return metrics


def check_counts(problems: Sequence[Problem], completions: Sequence[Sequence[Completion]]) -> None:
    counts = {len(samples) for samples in completions}
    if len(problems) != len(completions) or len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"[two_stage] completions: expected equally many for each of {len(problems)} problems, at least "
            f"one, got {sorted(counts)} for {len(completions)}"
        )


def write_answers(path: Path, results: Sequence[TwoStageProblem]) -> None:
    """Write one JSON line per trace: problem, trace, and the executor's answer with its verdict."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for result in results:
            rows = zip(result.completions, result.traces, result.answers, result.leaks, strict=True)
            for sample, (completion, trace, answer, leak) in enumerate(rows):
                row = {
                    "problem": result.problem.index,
                    "sample": sample,
                    "solution": result.problem.solution,
                    "completion": completion.text,
                    "trace": trace,
                    "leak": leak,
                    "executor_answer": answer.text,
                    "verdict": answer.checked.label,
                    "pass_rate": answer.checked.pass_rate,
                    "executor_alone": success_rate(result.baseline),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
