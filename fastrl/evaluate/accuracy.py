"""Accuracy of a model on a set of problems: avg@k, maj@k and pass@k with confidence intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrl.data import Problem, render_prompt
from fastrl.engine.protocol import Engine
from fastrl.evaluate.metrics import bootstrap_interval, maj_at_k, pass_at_k, powers_of_two
from fastrl.evaluate.sharing import together
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.verdict import COUNTED_APART
from fastrl.rewards.batch import mean
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.files import replacing
from fastrl.runtime.seeding import seed_of
from fastrl.types import Completion, SamplingParams


@dataclass(frozen=True, slots=True)
class ProblemResult:
    """The graded completions of one problem."""

    problem: Problem
    completions: list[Completion]
    answers: list[str | None]
    """Extracted answer of each completion; None if it has none."""
    verdicts: list[Verdict]
    wrong_counts: list[int]
    """Votes of each distinct wrong answer, up to equality by the grader."""

    @property
    def num_correct(self) -> int:
        return self.verdicts.count(Verdict.CORRECT)

    def maj_text_at_k(self, k: int) -> float:
        """Return maj@k of a vote by text, in which spellings of one answer are different answers."""
        texts = {text: 0 for text in self.answers if text is not None}
        right = dict(texts)
        for text, verdict in zip(self.answers, self.verdicts, strict=True):
            if text is not None:
                (right if verdict is Verdict.CORRECT else texts)[text] += 1
        won = 0.0
        for text, count in right.items():
            rivals = [votes for other, votes in right.items() if other != text] + [*texts.values()]
            won += (
                maj_at_k(count, [votes for votes in rivals if votes], self.num_unparsed, k) if count else 0.0
            )
        return won

    @property
    def num_unparsed(self) -> int:
        return self.answers.count(None)


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The results of an evaluation: graded completions and metrics."""

    problems: list[ProblemResult]
    metrics: dict[str, float]
    """Means over problems; `name/low` and `name/high` bound a 95 % confidence interval."""

    @property
    def completions(self) -> list[list[Completion]]:
        return [result.completions for result in self.problems]


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    grader: AnswerGrader,
    *,
    num_samples: int,
    sampling: SamplingParams,
    seed: int,
    path: Path | None = None,
    ranks: Ranks | None = None,
) -> EvalResult:
    """Sample every problem num_samples times and grade the answers.

        avg@n = mean c / n,  pass@k = mean 1 - C(n-c, k) / C(n, k),  maj@k = mean P(majority of k is right)

    In maj@k answers that the grader finds equal vote together; in maj_text@k only equal texts do. k runs over
    the powers of two up to n, and n. Further metrics: mean_length in tokens, unfinished (fraction truncated
    at max_new_tokens), and the fraction of each verdict other than correct and wrong.

    Args:
        problems: at least one. The seed of sample j depends only on (seed, row of the problem, j), so a
            subset of the problems has the same completions.
        num_samples: n >= 1.
        path: JSONL file to which all completions are written.
        ranks: ranks that evaluate other problems at the same time; the result covers all of them. With
            several ranks, `problems` may be empty on some.
    """
    ranks = ranks or Ranks()
    if not problems and ranks.size == 1:
        raise ValueError("[evaluate] problems: expected at least one, got none")
    if num_samples < 1:
        raise ValueError(f"[evaluate] num_samples: expected >= 1, got {num_samples}")
    prompts = [render_prompt(engine.tokenizer, problem.messages) for problem in problems]
    seeds = [seed_of(seed, "evaluate", problem.index) for problem in problems]
    completions = engine.generate(prompts, sampling, seeds=seeds, n=num_samples) if problems else []
    results = together(graded(problems, completions, grader), ranks)
    if path is not None:
        write_completions(path, results)
    return EvalResult(results, summarize(results, seed))


def graded(
    problems: Sequence[Problem], completions: Sequence[list[Completion]], grader: AnswerGrader
) -> list[ProblemResult]:
    """Extract and grade the answers of all completions in one call of the grader."""
    pairs = [
        (completion.text, problem.solution)
        for problem, samples in zip(problems, completions, strict=True)
        for completion in samples
    ]
    verdicts = iter(grader.grade(pairs))
    results = []
    for problem, samples in zip(problems, completions, strict=True):
        answers = [grader.stated(completion.text) for completion in samples]
        own = [next(verdicts) for _ in samples]
        wrong = [a for a, v in zip(answers, own, strict=True) if v is not Verdict.CORRECT]
        results.append(ProblemResult(problem, samples, answers, own, list(grader.votes(wrong).values())))
    return results


def summarize(results: Sequence[ProblemResult], seed: int) -> dict[str, float]:
    """Return the metrics of `evaluate` from graded problems."""
    num_samples = len(results[0].verdicts)
    metrics = {"num_problems": float(len(results)), "num_samples": float(num_samples)}

    def add(name: str, values: Sequence[float]) -> None:
        low, high = bootstrap_interval(values, seed=seed_of(seed, "interval"))
        metrics.update({name: mean(values), f"{name}/low": low, f"{name}/high": high})

    add(f"avg@{num_samples}", [result.num_correct / num_samples for result in results])
    for k in powers_of_two(num_samples)[1:]:  # at k = 1 all equal avg
        add(f"maj@{k}", [maj_at_k(r.num_correct, r.wrong_counts, r.num_unparsed, k) for r in results])
        add(f"maj_text@{k}", [r.maj_text_at_k(k) for r in results])
        add(f"pass@{k}", [pass_at_k(num_samples, r.num_correct, k) for r in results])
    samples = [completion for result in results for completion in result.completions]
    verdicts = Counter(verdict for result in results for verdict in result.verdicts)
    metrics["mean_length"] = mean([float(len(completion.token_ids)) for completion in samples])
    metrics["unfinished"] = mean([float(completion.finish_reason == "length") for completion in samples])
    metrics |= {verdict.value: verdicts[verdict] / len(samples) for verdict in COUNTED_APART}
    return metrics


def write_completions(path: Path, results: Sequence[ProblemResult]) -> None:
    """Write one JSON line per completion: problem, answer, verdict, text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for result in results:
            rows = zip(result.completions, result.answers, result.verdicts, strict=True)
            for sample, (completion, answer, verdict) in enumerate(rows):
                row = {
                    "problem": result.problem.index,
                    "sample": sample,
                    "solution": result.problem.solution,
                    "answer": answer,
                    "verdict": verdict.value,
                    "num_tokens": len(completion.token_ids),
                    "finish_reason": completion.finish_reason,
                    "completion": completion.text,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
