"""Metrics of a step, under TRL's names."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fastrl.evaluate.saturation import advantage_split
from fastrl.grading import extract_answer, normalize_answer
from fastrl.runtime.distributed import Ranks
from fastrl.training.parts import WeightedReward
from fastrl.training.sample import Sampled
from fastrl.training.update import Stats, UpdateResult
from fastrl.types import Metrics, Rollout


def step_metrics(
    sampled: Sampled, rewards: Sequence[WeightedReward], update: UpdateResult, lr: float, ranks: Ranks
) -> Metrics:
    """Return the metrics of a step's rollouts and update, over all ranks."""
    rows = ranks.gather([row_of(rollout) for rollout in sampled.rollouts])
    reported = ranks.gather([(name, *pair) for name, values in sampled.metrics.items() for pair in values])
    metrics = reward_metrics(rows, [reward.name for reward in rewards])
    metrics |= split_metrics(rows, solved=max(reward.weight for reward in rewards))
    metrics |= answer_metrics(rows)
    metrics |= length_metrics(rows)
    metrics |= loss_metrics(update.stats, ranks)
    metrics |= {
        name: weighted_mean([(value, weight) for n, value, weight in reported if n == name])
        for name in dict.fromkeys(n for n, _, _ in reported)
    }
    metrics |= {"grad_norm": mean(update.grad_norms), "learning_rate": lr}
    metrics["groups_drawn"] = ranks.sum([sampled.groups_drawn])[0]
    return metrics | update.drift.metrics(ranks)


def row_of(rollout: Rollout) -> dict[str, Any]:
    """Return the values of a rollout that metrics need."""
    answer = extract_answer(rollout.text)
    return {
        "group": rollout.group,
        # short to send, and equal in every process: hashes of ints are not randomised
        "problem": hash(tuple(rollout.prompt_ids)),
        "answer": None if answer is None else normalize_answer(answer),
        "reward": rollout.reward,
        "rewards": rollout.rewards,
        "advantage": rollout.advantage,
        "length": len(rollout.completion_ids),
        "stopped": rollout.finish_reason == "stop",
    }


def reward_metrics(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Metrics:
    values = [row["reward"] for row in rows]
    metrics = {"reward": mean(values), "reward_std": deviation(values)}
    for name in names:
        given = [row["rewards"][name] for row in rows if row["rewards"][name] is not None]
        metrics[f"rewards/{name}/mean"], metrics[f"rewards/{name}/std"] = mean(given), deviation(given)
    groups: dict[int, list[float]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["reward"])
    flat = [len({value for value in group if not math.isnan(value)}) < 2 for group in groups.values()]
    metrics["frac_reward_zero_std"] = mean(flat)
    metrics["frac_zero_advantage"] = mean(row["advantage"] == 0 for row in rows)
    return metrics


def split_metrics(rows: Sequence[dict[str, Any]], solved: float) -> Metrics:
    """Return the shares of rewarded groups that are too easy, too hard, or effective (rewards differ).

    Args:
        solved: a group of equal rewards >= solved is too easy, otherwise too hard; the largest reward weight,
            since a correct answer mostly earns it.
    """
    groups: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if not math.isnan(row["reward"]):
            groups[row["group"]].append(row["reward"])
    if not groups:
        return {}
    split = advantage_split(list(groups.values()), solved)
    return {
        "groups/too_easy": split.too_easy,
        "groups/too_hard": split.too_hard,
        "groups/effective": split.effective,
    }


def answer_metrics(rows: Sequence[dict[str, Any]]) -> Metrics:
    """Return the agreement of the policy's answers with each other; no gold answer is used.

        majority answer of a problem = its most frequent answer, on a tie the first
        answers/agreement          mean over problems of (completions with the majority answer / completions)
        answers/most_common_share  most problems with the same majority answer / problems

    Agreement falls in a policy that no longer works out its answers. most_common_share is 1 in a policy that
    answers everything alike, for example to win a majority vote; it is absent with one problem or no answer.
    Answers are compared as normalised text.
    """
    stated: dict[int, Counter[str]] = defaultdict(Counter)
    completions = Counter(row["problem"] for row in rows)
    for row in rows:
        stated[row["problem"]].update([] if row["answer"] is None else [row["answer"]])
    top = {problem: votes.most_common(1)[0] for problem, votes in stated.items() if votes}
    metrics = {
        "answers/agreement": mean(
            top[problem][1] / number if problem in top else 0.0 for problem, number in completions.items()
        )
    }
    if len(stated) > 1 and top:
        answers = Counter(answer for answer, _ in top.values())
        metrics["answers/most_common_share"] = max(answers.values()) / len(stated)
    return metrics


def length_metrics(rows: Sequence[dict[str, Any]]) -> Metrics:
    lengths = [row["length"] for row in rows]
    stopped = [row["length"] for row in rows if row["stopped"]]
    metrics: Metrics = {"num_tokens": float(sum(lengths))}
    for kind, values in (("", lengths), ("_terminated", stopped)):
        metrics[f"completions/mean{kind}_length"] = mean(values)
        metrics[f"completions/min{kind}_length"] = min(values, default=math.nan)
        metrics[f"completions/max{kind}_length"] = max(values, default=math.nan)
    metrics["completions/clipped_ratio"] = mean(not row["stopped"] for row in rows)
    return metrics


# statistic of the loss -> (metric, its denominator)
MEANS = {
    "entropy_sum": ("entropy", "computed_tokens_sum"),
    "kl_sum": ("kl", "computed_tokens_sum"),
    "clip_low_sum": ("clip_ratio/low_mean", "computed_tokens_sum"),
    "clip_high_sum": ("clip_ratio/high_mean", "computed_tokens_sum"),
    "correction_sum": ("sampling/importance_sampling_ratio/mean", "correction_count_sum"),
    "rollout_diff_sum": ("sampling/sampling_logp_difference/mean", "rollout_diff_count_sum"),
}
EXTREMES = {
    "correction_min": "sampling/importance_sampling_ratio/min",
    "correction_max": "sampling/importance_sampling_ratio/max",
    "rollout_diff_max": "sampling/sampling_logp_difference/max",
}


def loss_metrics(stats: Stats, ranks: Ranks) -> Metrics:
    """Return the loss and its means over tokens that carry gradient. Costs one host sync."""
    names = sorted(stats)
    local = torch.stack([stats[name].double() for name in names]).tolist() if names else []
    parts = ranks.gather([dict(zip(names, local, strict=True))])
    keys = {key for part in parts for key in part}
    total = {key: combine(key, [part[key] for part in parts if key in part]) for key in keys}
    metrics = {
        metric: total[key] / total[count]
        for key, (metric, count) in MEANS.items()
        if key in total and total[count]
    }
    metrics |= {
        metric: total[key] for key, metric in EXTREMES.items() if math.isfinite(total.get(key, math.nan))
    }
    metrics["loss"] = total.get("loss_sum", 0.0)
    metrics["num_tokens_trained"] = total.get("computed_tokens_sum", 0.0)
    if "clip_ratio/low_mean" in metrics:
        metrics["clip_ratio/region_mean"] = metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"]
    return metrics


def combine(name: str, values: Sequence[float]) -> float:
    return sum(values) if name.endswith("_sum") else min(values) if name.endswith("_min") else max(values)


def mean(values: Iterable[float]) -> float:
    given = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(given) / len(given) if given else math.nan


def weighted_mean(values: Iterable[tuple[float, int]]) -> float:
    given = [(value, weight) for value, weight in values if not math.isnan(value)]
    total = sum(weight for _, weight in given)
    return math.fsum(value * weight for value, weight in given) / total if total else math.nan


def deviation(values: Iterable[float]) -> float:
    given = [float(value) for value in values if not math.isnan(value)]
    return statistics.stdev(given) if len(given) > 1 else 0.0
