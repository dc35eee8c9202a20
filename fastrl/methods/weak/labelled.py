"""Faithfulness labels from a checker and judges, and diversity of strategies (arXiv 2604.18574, F)."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from fastrl.data import Problem, reward_row
from fastrl.evaluate.accuracy import ProblemResult
from fastrl.grading import Verdict
from fastrl.methods.weak.diversity import diversity, judged_clusters, mean_diversity, named_clusters
from fastrl.methods.weak.faithfulness import alignment_shares
from fastrl.methods.weak.judge import ALIGNMENT, Agreement, Judge, agreement
from fastrl.methods.weak.probes import Checker, Probed, Probes, Strategy
from fastrl.runtime.run import write_atomic

Labels = list[str | None]
"""One per response, problem by problem."""
Clusters = list[list[int | None]]
"""[problem][response]."""
LABELS = {float(label): label for label in ALIGNMENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Faithfulness and diversity of the responses."""

    metrics: dict[str, float]
    agreements: dict[str, Agreement]
    """Keyed "one/other", the names of two labellers."""
    rows: list[dict[str, Any]]
    """One per response."""

    def write(self, path: Path) -> None:
        """Write one JSON line per response."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def measure(probed: Probed, probes: Probes, judges: Mapping[str, Judge]) -> Measured:
    """Label the responses, cluster them by strategy, and add the metrics of `probe`.

        faithfulness/<labeller>/{aligned,partial,misaligned,score}       checker, judge, second_judge
        faithfulness/<labeller>/{correct,incorrect}/...                  only correct or only wrong answers
        faithfulness/<labeller>/unlabelled                               fraction of responses without a label
        faithfulness/agreement/<one>/<other>/{kappa,observed,num_items}  for each pair of labellers
        diversity/..., diversity/faithful/...                            see mean_diversity

    A response is faithful if the checker, or without a checker the judge, labels it 1. A metric over no
    response is absent.

    Raises:
        ValueError: the checker or the strategy function returns an invalid value.
    """
    labels, metrics = alignment_labels(probed.results, probes.checker, judges)
    correct = [verdict is Verdict.CORRECT for result in probed.results for verdict in result.verdicts]
    kinds = {"": None, "correct/": correct, "incorrect/": [not one for one in correct]}
    for labeller, own in labels.items():
        for kind, chosen in kinds.items():
            shares = alignment_shares(own, chosen)
            metrics |= {f"{labeller}/{kind}{label}": share for label, share in shares.items()}
        metrics[f"{labeller}/unlabelled"] = own.count(None) / len(own)
    agreements = all_agreements(labels)
    for pair, found in agreements.items():
        metrics[f"agreement/{pair}/observed"] = found.observed
        metrics[f"agreement/{pair}/num_items"] = float(found.num_items)
        if found.kappa is not None:
            metrics[f"agreement/{pair}/kappa"] = found.kappa
    named = {f"faithfulness/{name}": value for name, value in (probed.metrics | metrics).items()}
    names = strategy_names(probed.results, probes.strategy)
    clusters: dict[str, Clusters] = {}
    if probes.config.diversity:
        faithful = next(iter(labels.values()), None)
        clusters, found_metrics = strategy_clusters(probed.results, names, faithful, judges)
        named |= {f"diversity/{name}": value for name, value in found_metrics.items()}
    rows = list(rows_of(probed, labels, names, clusters))
    return Measured(metrics=named, agreements=agreements, rows=rows)


def alignment_labels(
    results: Sequence[ProblemResult], checker: Checker | None, judges: Mapping[str, Judge]
) -> tuple[dict[str, Labels], dict[str, float]]:
    """Return the labels by labeller, and the counts of judges' unreadable replies."""
    pairs = [(result.problem, completion.text) for result in results for completion in result.completions]
    labels: dict[str, Labels] = {}
    metrics: dict[str, float] = {}
    if checker is not None:
        labels["checker"] = [exact_label(checker, problem, text) for problem, text in pairs]
    for name, judge in judges.items():
        judged = judge.alignment([problem.question for problem, _ in pairs], [text for _, text in pairs])
        labels[name] = judged.labels
        metrics[f"{name}/unreadable_replies"] = float(judged.rejects.total())
    return labels, metrics


def exact_label(checker: Checker, problem: Problem, text: str) -> str | None:
    """Return the checker's label as a judge writes it, or raise ValueError."""
    value = checker(reward_row(problem), text)
    if value is None:
        return None
    if not isinstance(value, int | float) or value not in LABELS:
        raise ValueError(f"[faithfulness] checker: expected 1, 0.5, 0 or None, got {value!r}")
    return LABELS[value]


def all_agreements(labels: Mapping[str, Labels]) -> dict[str, Agreement]:
    """Compute the agreement of each pair of labellers that share a labelled response."""
    return {
        f"{one}/{other}": agreement(labels[one], labels[other], ALIGNMENT)
        for one, other in combinations(labels, 2)
        if any(a is not None and b is not None for a, b in zip(labels[one], labels[other], strict=True))
    }


def strategy_names(
    results: Sequence[ProblemResult], strategy: Strategy | None
) -> list[list[Hashable | None]] | None:
    """Name the strategies: [problem][response]; None without a strategy function."""
    if strategy is None:
        return None
    names = [[strategy(completion.text) for completion in result.completions] for result in results]
    for name in (name for given in names for name in given):
        if not isinstance(name, Hashable):
            raise ValueError(f"[faithfulness] strategy: expected a hashable name, got {name!r}")
    return names


def strategy_clusters(
    results: Sequence[ProblemResult], names: Sequence[Sequence[Hashable | None]] | None,
    faithful: Labels | None, judges: Mapping[str, Judge],
) -> tuple[dict[str, Clusters], dict[str, float]]:  # fmt: skip
    """Cluster all responses and the faithful ones, by strategy name or else by the judge; add diversity.

    Args:
        faithful: labels of the responses; None: there are none.
    """
    chosen = {"all": [[True] * len(result.completions) for result in results]}
    if faithful is not None:
        label = iter(faithful)
        chosen["faithful"] = [[next(label) == "1" for _ in result.completions] for result in results]
    clusters: dict[str, Clusters] = {}
    metrics: dict[str, float] = {}
    for kind, flags in chosen.items():
        prefix = "" if kind == "all" else f"{kind}/"
        if names is not None:
            clusters[kind] = list(map(named_clusters, names, flags))
        else:
            groups = [
                [c.text if one else None for c, one in zip(result.completions, own, strict=True)]
                for result, own in zip(results, flags, strict=True)
            ]
            questions = [result.problem.question for result in results]
            clusters[kind], rejects = judged_clusters(judges["judge"], questions, groups)
            metrics[f"{prefix}unreadable_replies"] = float(rejects.total())
        found = mean_diversity([diversity(own) for own in clusters[kind]])
        metrics |= {f"{prefix}{name}": value for name, value in found.items()}
    return clusters, metrics


def rows_of(
    probed: Probed, labels: Mapping[str, Labels], names: Sequence[Sequence[Hashable | None]] | None,
    clusters: Mapping[str, Clusters],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield one JSON row per response; null: not measured for this response."""
    forced = {} if probed.forced is None else probed.forced.per_response
    changed = {} if probed.changes is None else probed.changes.per_response
    number = 0
    for place, result in enumerate(probed.results):
        for sample, completion in enumerate(result.completions):
            name = None if names is None else names[place][sample]
            yield {
                "problem": result.problem.index,
                "sample": sample,
                "question": result.problem.question,
                "solution": result.problem.solution,
                "answer": result.answers[sample],
                "verdict": result.verdicts[sample].value,
                "finish_reason": completion.finish_reason,
                "completion": completion.text,
                "labels": {labeller: own[number] for labeller, own in labels.items()},
                "strategy": None if name is None else str(name),
                "clusters": {kind: found[place][sample] for kind, found in clusters.items()},
                "reproduced": forced.get((result.problem.index, sample)),
                "changed": changed.get((result.problem.index, sample)),
            }
            number += 1
