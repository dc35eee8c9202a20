"""Training a reasoning reward model: a Hugging Face backbone and groups of traces in, a checkpoint out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrl.build import choose_device
from fastrl.checkpoint import latest_checkpoint, load_optimizer, save_checkpoint
from fastrl.config import RewardModelConfig, microbatch_tokens
from fastrl.data.order import ProblemOrder
from fastrl.evaluate.rubric import JudgedTrace, calibration, rubric_metrics
from fastrl.ops import prefix_tree
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.optimizer import apply_gradients, make_optimizer
from fastrl.policy.packing import microbatches
from fastrl.policy.rubric_input import Rubric
from fastrl.policy.rubric_loss import rubric_loss
from fastrl.policy.rubric_model import RubricModel
from fastrl.report.calibration import plot_calibration
from fastrl.run import Run, write_atomic
from fastrl.seeding import seed_of
from fastrl.stages.guards import Guards
from fastrl.stages.rubric_batches import EncodedGroup, Example, draw_batch, encode_groups, read_task_groups
from fastrl.stages.sft import scheduled


def run_reward_model(config: RewardModelConfig) -> Path:
    """Learn the judgments of groups of traces: rubric levels, totals, and that the good trace is above.

        L = w_dimension CE + w_total Huber + w_ranking pairs          (fastrl.policy.rubric_loss)

    A step takes groups_per_step groups, of each a positive and num_negatives negatives, drawn anew. Held-out
    groups are judged whole before the first step and with every checkpoint; eval.json and calibration.png
    show the last time. A run folder with checkpoints of the same configuration goes on from the last one,
    bit for bit on one device.

    Args:
        config: config.model.path is the backbone, config.data.path and config.eval_path files of groups.
    Returns: the last checkpoint's folder, as RubricModel.load takes it.
    Raises:
        FileNotFoundError, ValueError: a file, group or option that can't be used.
        FloatingPointError: the gradient is NaN or infinite; no weight was changed.
    """
    run = Run.start(config)
    saved = latest_checkpoint(run.checkpoints)
    model = RubricModel.start(
        config.model, Rubric(config.task, config.max_tokens), config.lora, choose_device(config.run),
        seed_of(config.run.seed, "lora"), saved,
    )  # fmt: skip
    optimizer = make_optimizer(model.policy, config.train)
    state: dict[str, Any] = {"step": 0} if saved is None else load_optimizer(saved, model.policy, optimizer)
    step, bad_steps = int(state["step"]), BadSteps(config.train, state.get("bad_steps"))
    groups = read(config, model, config.data.path, config.data.limit)
    held_out = [] if config.eval_path is None else read(config, model, config.eval_path)
    order = ProblemOrder(len(groups), config.run.seed)
    if step == 0:
        run.rewind(-1)
        run.log(0, data_metrics(groups, held_out) | evaluate(model, held_out, config, run, step))
    run.rewind(step)
    with Guards(run, config, model.policy, optimizer) as guards:
        while step < config.train.num_steps:
            with run.time("update"):
                batch = draw_batch(groups, order, config, step)
                metrics = update(model, optimizer, batch, config, step, bad_steps)
            step += 1
            last = step == config.train.num_steps
            saving = last or (config.run.save_every and step % config.run.save_every == 0)
            if saving:
                metrics |= evaluate(model, held_out, config, run, step)
            run.log(step, metrics)
            leaving = guards.leaving()
            if saving or leaving:
                run.enter("checkpoint")
                state = {"step": step, "bad_steps": bad_steps.state()}
                saved = save_checkpoint(run.checkpoints, model.policy, optimizer, state, config.run.keep_last)
            if leaving:
                guards.leave(saved or run.checkpoints)
    return saved or run.checkpoints


def read(
    config: RewardModelConfig, model: RubricModel, path: str, limit: int | None = None
) -> list[EncodedGroup]:
    groups = read_task_groups(path, config.task, limit)
    return list(encode_groups(groups, model.tokenizer, model.rubric))


def data_metrics(groups: Sequence[EncodedGroup], held_out: Sequence[EncodedGroup]) -> dict[str, float]:
    """What was read, and how many inputs were cut to fit."""
    read = (("data", groups), ("eval", held_out))
    metrics = {f"{name}/num_groups": float(len(of)) for name, of in read}
    return metrics | {f"{name}/num_truncated": float(sum(g.num_truncated for g in of)) for name, of in read}


def update(
    model: RubricModel, optimizer: torch.optim.Optimizer, batch: Sequence[Sequence[Example]],
    config: RewardModelConfig, step: int, bad_steps: BadSteps,
) -> dict[str, float]:  # fmt: skip
    """One optimiser step on one batch of groups."""
    # only the adapters' dropout draws: where a run is resumed, it draws the same
    torch.manual_seed(seed_of(config.run.seed, "dropout", step))
    parts, num_tokens = accumulate(model, batch, config)
    rate = scheduled(config.train, config.schedule, step)
    train = replace(config.train, learning_rate=rate)
    grad_norm = apply_gradients(model.policy, optimizer, train, step, bad_steps)
    loss, dimension, total, ranking, pairs_right = parts.tolist()
    return {
        "loss": loss,
        "loss/dimension": dimension,
        "loss/total": total,
        "loss/ranking": ranking,
        "pair_accuracy": pairs_right,
        "grad_norm": grad_norm,
        "learning_rate": float(optimizer.param_groups[0]["lr"]),
        "num_tokens": float(num_tokens),
        **bad_steps.metrics(),
    }


def accumulate(
    model: RubricModel, batch: Sequence[Sequence[Example]], config: RewardModelConfig
) -> tuple[Tensor, int]:
    """Add the batch's gradient to the weights'; returns the loss and its parts, and the tokens computed.

    A micro-batch is whole groups, as many as tokens_per_microbatch holds and at least one; all are summed
    under one denominator, so how the batch is cut changes nothing. What the adapters drop is another matter:
    it is drawn micro-batch by micro-batch, for a shared token once.
    """
    sizes = [num_computed(model, group) for group in batch]
    parts = torch.zeros(5, device=model.policy.device)
    for indices in microbatches(sizes, microbatch_tokens(config)):
        traces = [trace for index in indices for trace in batch[index]]
        levels = torch.tensor([trace.levels for trace in traces], device=model.policy.device)
        totals = torch.tensor([trace.total for trace in traces], device=model.policy.device)
        judged = model([trace.token_ids for trace in traces])
        loss = rubric_loss(judged, levels, totals, config.loss, len(batch))
        loss.loss.backward()  # type: ignore[no-untyped-call]
        parts += loss.parts()
    return parts, sum(sizes)


def num_computed(model: RubricModel, group: Sequence[Example]) -> int:
    """Tokens of a group that go through the model: distinct prefixes where it shares them."""
    if model.policy.share_prefixes:
        return prefix_tree([trace.token_ids for trace in group]).num_slots
    return sum(len(trace.token_ids) for trace in group)


def evaluate(
    model: RubricModel, groups: Sequence[EncodedGroup], config: RewardModelConfig, run: Run, step: int
) -> dict[str, float]:
    """Judge every trace of held-out groups; writes eval.json and calibration.png. No groups: nothing."""
    if not groups:
        return {}
    with run.time("eval"):
        judged = judge_groups(model, groups, microbatch_tokens(config))
        metrics = rubric_metrics(judged, model.rubric.dimensions)
        bins = calibration(judged)
    about = {
        "step": step,
        "num_groups": len(groups),
        "num_traces": len(judged),
        "num_truncated": sum(group.num_truncated for group in groups),
        "metrics": metrics,
        "calibration": [asdict(each) for each in bins],
    }
    write_atomic(run.folder / "eval.json", json.dumps(about, indent=2) + "\n")
    plot_calibration(bins, run.folder / "calibration.png")
    return {f"eval/{name}": value for name, value in metrics.items()}


def judge_groups(
    model: RubricModel, groups: Sequence[EncodedGroup], tokens_per_microbatch: int
) -> list[JudgedTrace]:
    """All traces of the groups, with what the model says of each."""
    members = [
        (index, positive, trace)
        for index, group in enumerate(groups)
        for positive, pool in ((True, group.positives), (False, group.negatives))
        for trace in pool
    ]
    judged = model.judge([trace.token_ids for _, _, trace in members], tokens_per_microbatch)
    said = zip(members, judged.scores.tolist(), judged.levels.tolist(), strict=True)
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
        for (index, positive, trace), score, levels in said
    ]
