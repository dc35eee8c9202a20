"""The RL stage: its training loop of sampling, rewards and updates."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastrl.config import RlConfig
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.checkpoint import Saver, latest_checkpoint, load_optimizer
from fastrl.policy.schedule import learning_rate
from fastrl.report.reporter import Reporter
from fastrl.runtime.context import Context
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.seeding import seed_of
from fastrl.stages.build import build_rl
from fastrl.training.advantages import fill_advantages
from fastrl.training.ahead import Ahead
from fastrl.training.alarm import Alarms
from fastrl.training.card import ModelCard
from fastrl.training.engine_metrics import count, engine_metrics
from fastrl.training.evaluation import measure, wants
from fastrl.training.guards import Guards
from fastrl.training.metrics import step_metrics
from fastrl.training.parts import Parts
from fastrl.training.records import checkpoint_score, completion_row
from fastrl.training.sample import load_rollout_weights, sample_groups
from fastrl.training.truncation import TruncationWarning
from fastrl.training.update import update_policy
from fastrl.types import Metrics


@dataclass(slots=True)
class TrainState:
    """Progress of training, saved in checkpoints."""

    step: int = 0
    """Finished steps."""
    draw: int = 0
    """Prompts drawn so far, over all ranks."""
    fresh: bool = True
    """True if the run did not resume from a checkpoint."""


def run_rl(config: RlConfig, ranks: Ranks | None = None) -> Path:
    """Train until train.num_steps or an alarm in alarm.stop_on, from the run folder's last checkpoint if any.

    Returns: the folder of the last checkpoint.
    Raises:
        ValueError, FileNotFoundError: the configuration is invalid; raised before a model loads if possible.
        FloatingPointError: more NaN or infinite gradients than train.max_bad_steps; none was applied.
        Interrupted: SIGTERM or SIGINT arrived; a checkpoint holds the last finished step.
        Fault, EngineDied: memory or disk ran out, or an engine failed; nothing of the step was saved.
    """
    context = Context.start(config, ranks)
    checkpoint = latest_checkpoint(context.run.checkpoints, context.ranks)
    parts = build_rl(config, checkpoint)
    saved: dict[str, Any] = load_optimizer(checkpoint, parts.policy, parts.optimizer) if checkpoint else {}
    state = TrainState(saved.get("step", 0), saved.get("draw", 0), fresh=checkpoint is None)
    parts.bad_steps = BadSteps(config.train, saved.get("bad_steps"))
    context.run.rewind(-1 if state.fresh else state.step)
    with closing(parts):
        train(context, parts, state)
    return context.run.checkpoints / f"step-{state.step:06d}"


def train(context: Context[RlConfig], parts: Parts, state: TrainState) -> None:
    """Run training steps, updating `state`, until the last step, an alarm or a signal ends training."""
    config, run, ranks = context.config, context.run, context.ranks
    guards = Guards(context, parts.policy, parts.optimizer, parts.engines)
    saver = Saver(run.checkpoints, config.run.keep_last, ranks, config.run.async_save)
    card = ModelCard(context)
    with Reporter(run, config) as reporter, guards, saver, Ahead(context, parts) as ahead:
        if state.fresh:
            reporter.log(0, before := measure(context, parts, step=0, last=0))
            checkpoint_score(before, config)  # raises if run.keep_best's metric is not measured
        alarms, truncation = Alarms.of_run(context), TruncationWarning.of_run(context)
        last = state.step if alarms.end_training(ranks) else config.train.num_steps
        while state.step < last:
            torch.manual_seed(seed_of(config.run.seed, "torch", state.step, ranks.rank))
            counted = count(parts.engines)
            load_rollout_weights(context, parts, state.step)
            sampled = ahead.take() or sample_groups(context, parts, state.step, state.draw)
            if config.engine.sleep:
                parts.engine.sleep(level=2)  # also on a rank without prompts
            fill_advantages(sampled.rollouts, parts.rewards, config, ranks)
            saves = wants(state.step + 1, config.run.save_every, last)
            with ahead.sampling(state.step + 1, sampled.draw, allowed=not saves), run.time("update"):
                learnt = update_policy(context, parts, sampled.rollouts, state.step)
            lr = learning_rate(state.step, config.train)

            state.step, state.draw = state.step + 1, sampled.draw
            metrics = step_metrics(sampled, parts.rewards, learnt, lr, ranks)
            metrics |= engine_metrics(counted, count(parts.engines), ranks) | parts.bad_steps.metrics()
            metrics |= ahead.metrics(sampled)
            alarm_metrics, reasons = alarms.judge(metrics)
            metrics |= alarm_metrics
            last = state.step if alarms.end_training(ranks) else last
            metrics |= measure(context, parts, state.step, last)
            if wants(state.step, config.run.log_completions_every, last):
                rows = [completion_row(parts, rollout) for rollout in sampled.rollouts]
                run.log_completions(state.step, ranks.gather(rows))
            reporter.log(state.step, metrics)
            for reason in (*reasons, *truncation.judge(metrics)):
                reporter.say(reason)
            leaving = guards.leaving()
            if leaving or saves or state.step == last:
                run.enter("checkpoint")
                kept = saved_state(parts, state, metrics, config)
                saver.save(parts.policy, parts.optimizer, kept, card.text(state.step))
            if leaving:
                saver.wait()
                guards.leave(run.checkpoints / f"step-{state.step:06d}")


def saved_state(parts: Parts, state: TrainState, metrics: Metrics, config: RlConfig) -> dict[str, Any]:
    """Return the training state that a checkpoint stores in addition to weights and optimizer moments."""
    kept = {"step": state.step, "draw": state.draw, "bad_steps": parts.bad_steps.state()}
    return kept | checkpoint_score(metrics, config)
