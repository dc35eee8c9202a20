"""Encodes groups of traces and draws the training batches of the reward model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.config import RewardModelConfig
from fastrl.data.order import ProblemOrder
from fastrl.methods.tracelift.rubric_dimensions import level_of
from fastrl.methods.tracelift.rubric_input import Rubric, TraceInput, encode_traces
from fastrl.methods.tracelift.trace_groups import Group, Trace, read_groups
from fastrl.runtime.seeding import seed_of
from fastrl.types import Task


@dataclass(frozen=True, slots=True)
class Example:
    """A trace's input tokens and labels."""

    token_ids: tuple[int, ...]
    levels: tuple[int, ...]
    """0 to 4, in the order of the rubric's dimensions."""
    total: float
    negative_kind: str | None


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """The encoded traces of one problem."""

    positives: tuple[Example, ...]
    negatives: tuple[Example, ...]
    num_truncated: int
    """Number of traces whose input was truncated."""


def read_task_groups(path: str, task: Task, limit: int | None = None) -> list[Group]:
    """Read the groups of a file and check that they fit the task.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no row, or a group of another task or without a positive or a negative; names the row.
    """
    groups = read_groups(path, limit)
    for number, group in enumerate(groups, 1):
        place = f"[data] {path} row {number}"
        if group.task != task:
            raise ValueError(f"{place}: task: expected reward_model.task = {task}, got {group.task}")
        for name in ("positive_pool", "negative_bank"):
            if not getattr(group, name):
                raise ValueError(f"{place}: {name}: expected at least one trace, got none")
    return groups


def encode_groups(groups: Sequence[Group], tokenizer: Any, rubric: Rubric) -> Iterator[EncodedGroup]:
    """Yield the groups with every trace as tokens and labels."""
    for group in groups:
        traces = [*group.positive_pool, *group.negative_bank]
        inputs = encode_traces(
            tokenizer, rubric, [group.problem] * len(traces), [trace.text for trace in traces],
            [group.tests] * len(traces),
        )  # fmt: skip
        pairs = zip(inputs, traces, strict=True)
        examples = [labelled(read, trace, rubric) for read, trace in pairs]
        split = len(group.positive_pool)
        num_truncated = sum(read.num_cut > 0 for read in inputs)
        yield EncodedGroup(tuple(examples[:split]), tuple(examples[split:]), num_truncated)


def labelled(read: TraceInput, trace: Trace, rubric: Rubric) -> Example:
    levels = tuple(level_of(trace.scores[name]) for name in rubric.dimensions)
    return Example(read.token_ids, levels, trace.total, trace.negative_kind)


def draw_batch(
    groups: Sequence[EncodedGroup], order: ProblemOrder, config: RewardModelConfig, step: int
) -> list[list[Example]]:
    """Draw the step's groups, each a positive and num_negatives negatives; depends only on seed and step.

    Each epoch shuffles the groups and uses each once. The positive is uniform over the pool. Negatives are
    drawn without repetition; a group with too few gives all, and repeats fill up.
    """
    first = step * config.groups_per_step
    drawn = enumerate(order.take(first, config.groups_per_step), first)
    return [
        draw_traces(groups[index], config.loss.num_negatives, seed_of(config.run.seed, "traces", draw))
        for draw, index in drawn
    ]


def draw_traces(group: EncodedGroup, num_negatives: int, seed: int) -> list[Example]:
    # Python promises stable values between versions for random() only
    draw = random.Random(seed).random
    positive = group.positives[int(draw() * len(group.positives))]
    keys = [draw() for _ in group.negatives]
    chosen = sorted(range(len(keys)), key=keys.__getitem__)[:num_negatives]
    chosen += [int(draw() * len(keys)) for _ in range(num_negatives - len(chosen))]
    return [positive, *(group.negatives[index] for index in chosen)]
