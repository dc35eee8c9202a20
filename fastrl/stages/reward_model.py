"""The reward_model stage: trains a reasoning reward model on groups of traces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from fastrl.config import RewardModelConfig, microbatch_tokens
from fastrl.data.order import ProblemOrder
from fastrl.engine.build import choose_device
from fastrl.methods.tracelift.calibration import plot_calibration
from fastrl.methods.tracelift.rubric_agreement import JudgedTrace, calibration, rubric_metrics
from fastrl.methods.tracelift.rubric_batches import (
    EncodedGroup,
    Example,
    draw_batch,
    encode_groups,
    read_task_groups,
)
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_loss import NUM_DIMENSIONS, rubric_loss
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.ops import prefix_tree
from fastrl.policy.model import Policy
from fastrl.policy.packing import microbatches
from fastrl.policy.shard import Sharding
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import write_atomic
from fastrl.runtime.seeding import seed_of
from fastrl.training.learner import Learner
from fastrl.types import Metrics


def run_reward_model(config: RewardModelConfig, ranks: Ranks | None = None) -> Path:
    """Train rubric levels, totals, and the ranking of the good trace above flawed ones.

        L = w_dimension CE + w_total Huber + w_ranking pairs          (fastrl.methods.tracelift.rubric_loss)

    A step draws groups_per_step groups, each with one positive and num_negatives negatives. Held-out groups
    are evaluated with all their traces before the first step and at every checkpoint; eval.json and
    calibration.png hold the last evaluation. A run folder with checkpoints of the same configuration resumes
    from the last one, bit for bit on one device. The ranks share a step's groups and the held-out groups.

    Args:
        config: config.model.path is the backbone; config.data.path and config.eval_path are files of groups.
    Returns: the last checkpoint's folder, for RubricModel.load.
    Raises:
        FileNotFoundError, ValueError: a file, group or option is invalid.
        FloatingPointError: the gradient is NaN or infinite; no weight was changed.
    """
    ranks = ranks or Ranks()
    learner = Learner.start(config, ranks, partial(load_policy, config))
    model = RubricModel(learner.policy)
    groups = read(config, model, config.data.path, config.data.limit)
    held_out = [] if config.eval_path is None else read(config, model, config.eval_path)
    order = ProblemOrder(len(groups), config.run.seed)

    def learn(step: int) -> Metrics:
        return update(learner, model, draw_batch(groups, order, config, step), config, step)

    def measured(step: int, metrics: Metrics) -> Metrics:
        about = {} if metrics else data_metrics(groups, held_out)
        due = step == 0 or learner.saves()
        return about | (evaluate(learner, model, held_out, config) if due else {})

    return learner.train(learn, measured)


def load_policy(config: RewardModelConfig, checkpoint: Path | None) -> Policy:
    rubric, seed = Rubric(config.task, config.max_tokens), seed_of(config.run.seed, "lora")
    device, sharding = choose_device(config.run), Sharding.of(config.train)
    return RubricModel.start(config.model, rubric, config.lora, device, seed, checkpoint, sharding).policy


def read(
    config: RewardModelConfig, model: RubricModel, path: str, limit: int | None = None
) -> list[EncodedGroup]:
    groups = read_task_groups(path, config.task, limit)
    return list(encode_groups(groups, model.tokenizer, model.rubric))


def data_metrics(groups: Sequence[EncodedGroup], held_out: Sequence[EncodedGroup]) -> Metrics:
    """Return the numbers of groups and of truncated inputs."""
    read = (("data", groups), ("eval", held_out))
    metrics = {f"{name}/num_groups": float(len(of)) for name, of in read}
    return metrics | {f"{name}/num_truncated": float(sum(g.num_truncated for g in of)) for name, of in read}


def update(
    learner: Learner, model: RubricModel, batch: Sequence[Sequence[Example]], config: RewardModelConfig,
    step: int,
) -> Metrics:  # fmt: skip
    """Take one optimizer step on one batch of groups."""
    # seeded per step, so that a resumed run repeats the adapters' dropout
    torch.manual_seed(seed_of(config.run.seed, "dropout", step) + learner.ranks.rank)
    parts, num_tokens = accumulate(model, batch, config, learner.ranks)
    loss, dimension, total, ranking, pairs_right = parts
    return {
        "loss": loss,
        "loss/dimension": dimension,
        "loss/total": total,
        "loss/ranking": ranking,
        "pair_accuracy": pairs_right,
        "num_tokens": float(num_tokens),
    } | learner.apply(step)


def accumulate(
    model: RubricModel, batch: Sequence[Sequence[Example]], config: RewardModelConfig,
    ranks: Ranks | None = None,
) -> tuple[list[float], int]:  # fmt: skip
    """Accumulate the gradient of this rank's share of the groups; return the whole batch's loss terms and its
    number of computed tokens.

    A micro-batch holds as many whole groups as fit in tokens_per_microbatch, at least one. All losses share a
    denominator, so the split into micro-batches and ranks doesn't change the sum. Adapter dropout does depend
    on the split: it is drawn per micro-batch, once for a shared token.
    """
    ranks = ranks or Ranks()
    sizes = [num_computed(model, group) for group in batch]
    mine = ranks.share(sizes)
    parts = torch.zeros(5, device=model.policy.device)
    batches = microbatches([sizes[index] for index in mine], microbatch_tokens(config))
    batches = model.policy.add_empty_batches(batches)
    for number, places in enumerate(batches, start=1):
        model.policy.set_gradient_sync(enabled=number == len(batches))
        traces = [trace for place in places for trace in batch[mine[place]]]
        levels = torch.tensor([trace.levels for trace in traces], dtype=torch.long).view(-1, NUM_DIMENSIONS)
        totals = torch.tensor([trace.total for trace in traces])
        judged = model([trace.token_ids for trace in traces])
        device = model.policy.device
        loss = rubric_loss(judged, levels.to(device), totals.to(device), config.loss, len(batch))
        loss.loss.backward()  # type: ignore[no-untyped-call]
        parts += loss.parts()
    return ranks.sum(parts.tolist()), sum(sizes)


def num_computed(model: RubricModel, group: Sequence[Example]) -> int:
    """Return the number of a group's tokens that the model computes, without repeated shared prefixes."""
    if model.policy.share_prefixes:
        return prefix_tree([trace.token_ids for trace in group]).num_slots
    return sum(len(trace.token_ids) for trace in group)


def evaluate(
    learner: Learner, model: RubricModel, groups: Sequence[EncodedGroup], config: RewardModelConfig
) -> Metrics:
    """Evaluate every trace of the held-out groups, shared over the ranks; the first rank writes eval.json and
    calibration.png. Return {} if there are no groups."""
    if not groups:
        return {}
    run, ranks = learner.run, learner.ranks
    with run.time("eval"):
        places = ranks.share([num_tokens(group) for group in groups])
        judged = judge_groups(model, [groups[place] for place in places], microbatch_tokens(config))
        judged = [replace(trace, group=places[trace.group]) for trace in judged]
        judged = sorted(ranks.gather(judged), key=lambda trace: trace.group)
        metrics = rubric_metrics(judged, model.rubric.dimensions)
        bins = calibration(judged)
    if ranks.first:
        about = {
            "step": learner.step,
            "num_groups": len(groups),
            "num_traces": len(judged),
            "num_truncated": sum(group.num_truncated for group in groups),
            "metrics": metrics,
            "calibration": [asdict(bin) for bin in bins],
        }
        write_atomic(run.folder / "eval.json", json.dumps(about, indent=2) + "\n")
        plot_calibration(bins, run.folder / "calibration.png")
    return {f"eval/{name}": value for name, value in metrics.items()}


def num_tokens(group: EncodedGroup) -> int:
    return sum(len(trace.token_ids) for trace in (*group.positives, *group.negatives))


def judge_groups(
    model: RubricModel, groups: Sequence[EncodedGroup], tokens_per_microbatch: int
) -> list[JudgedTrace]:
    """Score all traces of the groups."""
    members = [
        (index, positive, trace)
        for index, group in enumerate(groups)
        for positive, pool in ((True, group.positives), (False, group.negatives))
        for trace in pool
    ]
    judged = model.judge([trace.token_ids for _, _, trace in members], tokens_per_microbatch)
    rows = zip(members, judged.scores.tolist(), judged.levels.tolist(), strict=True)
    return [
        JudgedTrace(
            group=index,
            positive=positive,
            negative_kind=trace.negative_kind,
            score=score,
            total=trace.total,
            levels=tuple(levels),
            gold_levels=trace.levels,
        )
        for (index, positive, trace), score, levels in rows
    ]
