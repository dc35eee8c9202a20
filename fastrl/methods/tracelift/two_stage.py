"""How often a frozen executor is right with the planner's traces, and how often alone."""

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
from fastrl.methods.tracelift.executor import Answer, Executor, Request, success_rate
from fastrl.rewards.batch import mean
from fastrl.rewards.traces import trace_of
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.files import replacing
from fastrl.runtime.seeding import seed_of
from fastrl.types import Completion, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageProblem:
    """One problem's traces, and what became of them."""

    problem: Problem
    completions: list[Completion]
    """The planner's."""
    traces: list[str]
    answers: list[Answer]
    """The executor's, one a trace."""
    alone: list[Answer]
    """As many, without a trace."""
    leaks: list[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageResult:
    """An evaluation: every problem's part of it, and the numbers."""

    problems: list[TwoStageProblem]
    metrics: dict[str, float]
    """Means over problems; `name/low` and `name/high` are the ends of a 95 % interval."""


def sample_traces(
    planner: Engine, problems: Sequence[Problem], *, num_samples: int, sampling: SamplingParams, seed: int
) -> list[list[Completion]]:
    """num_samples completions of each problem; sample j draws from (seed, the problem's row, j) alone."""
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
    """Give every trace to the executor once, and each problem as often without a trace.

        two_stage_avg@n      = mean over problems of the share of right answers with a trace
        executor_alone_avg@n = the same without
        uplift               = their difference, problem by problem

    Beside them: leak, the share of traces that give the answer or the program away; trace_length, in the
    planner's tokens; what ran out of tokens; for code the mean pass rates. The executor alone draws from
    (seed, row, sample) and is asked once for all evaluations with an executor and a seed, so that before and
    after have the same one.

    Args:
        completions: of sample_traces, n >= 1 of each problem.
        trace_tag: see trace_of.
        path: JSONL file to write every trace and answer to.
        ranks: that measure other problems at the same time; what is returned is of all of them. One of
            several may have none.
    """
    ranks = ranks or Ranks()
    if problems or ranks.size == 1:
        check_counts(problems, completions)
    num_samples = len(completions[0]) if completions else 0
    rows = [reward_row(problem) for problem in problems]
    references = [executor.verifier.reference(row) for row in rows]
    traces = [[trace_of(each.text, trace_tag) for each in samples] for samples in completions]
    requests = [
        Request(
            question=row["question"], trace=trace, reference=reference, num_samples=1,
            seed=seed_of(seed, "two_stage", problem.index, j),
        )
        for problem, row, reference, own in zip(problems, rows, references, traces, strict=True)
        for j, trace in enumerate(own)
    ]  # fmt: skip
    alone = [
        Request(
            question=row["question"], trace=None, reference=reference, num_samples=num_samples, keep=True,
            seed=seed_of(seed, "alone", problem.index),
        )
        for problem, row, reference in zip(problems, rows, references, strict=True)
    ]  # fmt: skip
    answers = executor.run([*requests, *alone]) if problems else []
    primary = iter(answers[: len(requests)])
    results = [
        TwoStageProblem(
            problem=problem,
            completions=list(samples),
            traces=own,
            answers=[next(primary)[0] for _ in own],
            alone=without,
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
    """The metrics of two_stage, from checked answers."""
    n = len(results[0].traces)
    metrics = {"num_problems": float(len(results)), "num_samples": float(n)}

    def add(name: str, values: Sequence[float]) -> None:
        low, high = bootstrap_interval(values, seed=seed_of(seed, "interval"))
        metrics.update({name: mean(values), f"{name}/low": low, f"{name}/high": high})

    helped = [success_rate(result.answers) for result in results]
    alone = [success_rate(result.alone) for result in results]
    add(f"two_stage_avg@{n}", helped)
    add(f"executor_alone_avg@{n}", alone)
    add("uplift", [a - b for a, b in zip(helped, alone, strict=True)])
    answers = [answer for result in results for answer in result.answers]
    completions = [completion for result in results for completion in result.completions]
    metrics["leak"] = mean([float(leak) for result in results for leak in result.leaks])
    metrics["trace_length"] = mean([float(len(each.token_ids)) for each in completions])
    metrics["trace_unfinished"] = mean([float(each.finish_reason == "length") for each in completions])
    metrics["answer_unfinished"] = mean([float(answer.finish_reason == "length") for answer in answers])
    labels = Counter(answer.checked.label for answer in answers)
    metrics |= {label: labels[label] / len(answers) for label in executor.verifier.labels}
    if executor.verifier.task == "code":
        metrics["two_stage_pass_rate"] = mean([answer.checked.pass_rate for answer in answers])
        metrics["executor_alone_pass_rate"] = mean([a.checked.pass_rate for r in results for a in r.alone])
    return metrics


def check_counts(problems: Sequence[Problem], completions: Sequence[Sequence[Completion]]) -> None:
    counts = {len(samples) for samples in completions}
    if len(problems) != len(completions) or len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"[two_stage] completions: expected equally many of each of {len(problems)} problems, at least "
            f"one, got {sorted(counts)} of {len(completions)}"
        )


def write_answers(path: Path, results: Sequence[TwoStageProblem]) -> None:
    """One line a trace: problem, trace, the executor's answer with it, and what it is worth."""
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
                    "executor_alone": success_rate(result.alone),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
