"""The RL stage: sample, reward, learn, again. One screen."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fastrl.config import RlConfig
from fastrl.evaluate.accuracy import evaluate
from fastrl.evaluate.sharing import share
from fastrl.methods.tracelift.two_stage import sample_traces, two_stage
from fastrl.methods.weak.while_training import faithfulness
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.checkpoint import SCORE, Saver, latest_checkpoint, load_optimizer
from fastrl.policy.optimizer import learning_rate
from fastrl.report.reporter import Reporter
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run, read_metrics
from fastrl.runtime.seeding import seed_of
from fastrl.stages.build import RlParts, build_rl
from fastrl.training.advantages import fill_advantages
from fastrl.training.ahead import Ahead
from fastrl.training.alarm import Alarms
from fastrl.training.drift import Drift
from fastrl.training.engine_metrics import count, engine_metrics
from fastrl.training.guards import Guards
from fastrl.training.metrics import Metrics, step_metrics
from fastrl.training.sample import awake, sample_groups
from fastrl.training.update import update_policy
from fastrl.types import Rollout, SamplingParams


def run_rl(config: RlConfig, ranks: Ranks | None = None) -> Path:
    """Train until train.num_steps, or an alarm of alarm.stop_on, from the run folder's last checkpoint if it
    has one.

    Returns: the folder of the last checkpoint.

    Raises:
        ValueError, FileNotFoundError: the configuration can't be run; before a model is loaded if possible.
        FloatingPointError: a gradient was NaN or infinite, beyond train.max_bad_steps; nothing was changed
            by it.
        Interrupted: after SIGTERM or SIGINT, with a checkpoint of the step that was finished.
        Fault, EngineDied: memory or disk were short, or an engine failed; nothing of the step was kept.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    checkpoint = latest_checkpoint(run.checkpoints, ranks)
    parts = build_rl(config, checkpoint)
    state: dict[str, Any] = {"step": 0, "draw": 0}
    if checkpoint:
        state = load_optimizer(checkpoint, parts.policy, parts.optimizer)
    run.rewind(state["step"] if checkpoint else -1)
    parts.bad_steps = BadSteps(config.train, state.get("bad_steps"))
    guards = Guards(run, config, parts.policy, parts.optimizer, ranks, parts.engines)
    saver = Saver(run.checkpoints, config.run.keep_last, ranks, config.run.async_save)
    ahead = Ahead(parts, config, run, ranks)
    with closing(parts), Reporter(run, config) as reporter, guards, saver, ahead:
        if not checkpoint:
            measured = faithfulness(parts, config, run, ranks, step=0)
            metrics = evaluation(parts, config, run, ranks, step=0)
            score_of(metrics, config, evaluated=True)
            reporter.log(0, metrics | measured)
        last = train(config, parts, run, reporter, ranks, state, guards, saver, ahead)
    return run.checkpoints / f"step-{last:06d}"


def train(
    config: RlConfig, parts: RlParts, run: Run, reporter: Reporter, ranks: Ranks, state: dict[str, Any],
    guards: Guards, saver: Saver, ahead: Ahead,
) -> int:  # fmt: skip
    """Returns the last step: train.num_steps, unless an alarm ended training."""
    step, draw = state["step"], state["draw"]
    seen = ranks.first and run.metrics_file.exists()
    alarms = Alarms(config.alarm, read_metrics(run.metrics_file) if seen else ())
    last = step if ended(alarms, ranks) else config.train.num_steps
    while step < last:
        torch.manual_seed(seed_of(config.run.seed, "torch", step, ranks.rank))
        counted = count(parts.engines)
        with run.time("weight_sync"):
            if config.engine.sleep:
                parts.engine.wake()
            parts.sync_engine(version=step)
        sampled = ahead.take() or sample_groups(parts, config, run, ranks, step, draw)
        draw = sampled.draw
        if config.engine.sleep:
            parts.engine.sleep(level=2)  # on a rank that had no prompt too
        fill_advantages(sampled.rollouts, parts.rewards, config.reward, ranks)
        saves = wants(step + 1, config.run.save_every, last)
        with ahead.sampling(step + 1, draw, allowed=not saves), run.time("update"):
            stats, norms = update_policy(parts, sampled.rollouts, config, ranks, step, drift := Drift())
        lr = learning_rate(step, config.train)

        step += 1
        metrics = step_metrics(sampled, parts.rewards, stats, norms, lr, ranks) | drift.metrics(ranks)
        metrics |= engine_metrics(counted, count(parts.engines), ranks) | parts.bad_steps.metrics()
        metrics |= ahead.metrics(sampled)
        rung, reasons = alarms.judge(metrics)
        metrics |= rung
        last = step if ended(alarms, ranks) else last
        if wants(step, config.eval.every, last):
            metrics |= evaluation(parts, config, run, ranks, step)
        if wants(step, config.eval.faithfulness.every, last):
            metrics |= faithfulness(parts, config, run, ranks, step)
        if wants(step, config.run.log_completions_every, last):
            run.log_completions(step, ranks.gather([completion_row(parts, r) for r in sampled.rollouts]))
        reporter.log(step, metrics)
        for reason in reasons:
            reporter.say(reason)
        leaving = guards.leaving()
        if leaving or saves or step == last:
            run.enter("checkpoint")
            state = {"step": step, "draw": draw, "bad_steps": parts.bad_steps.state()}
            state |= score_of(metrics, config, evaluated=wants(step, config.eval.every, last))
            saver.save(parts.policy, parts.optimizer, state)
        if leaving:
            saver.wait()
            guards.leave(run.checkpoints / f"step-{step:06d}")
    return last


def ended(alarms: Alarms, ranks: Ranks) -> bool:
    """Whether an alarm ends training; the first rank alone has seen all of the run."""
    return ranks.sum([float(ranks.first and alarms.stops)])[0] > 0


def wants(step: int, every: int, last: int) -> bool:
    """Every so many steps, and after the last one."""
    return step == last or (every > 0 and step % every == 0)


def score_of(metrics: Metrics, config: RlConfig, evaluated: bool) -> dict[str, float]:
    """What a checkpoint's state says of how good it is: run.keep_best, where measured.

    Raises: ValueError: the evaluation has no such metric.
    """
    name = config.run.keep_best
    if not name or not evaluated:
        return {}
    if name not in metrics:
        measured = ", ".join(sorted(each for each in metrics if each.startswith("eval/")))
        raise ValueError(f"[run] keep_best: expected one of {measured}, got {name!r}")
    return {SCORE: metrics[name]} if math.isfinite(metrics[name]) else {}


def evaluation(parts: RlParts, config: RlConfig, run: Run, ranks: Ranks, step: int) -> Metrics:
    """eval/... of the current weights; ranks share the problems. Empty where no evaluation is configured.
    Where the policy writes traces for an executor, of the two together and of the executor alone."""
    if not parts.eval_problems:
        return {}
    problems = share(parts.eval_problems, ranks)
    sampling = SamplingParams(
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        stop=config.rollout.stop,
    )
    seed, num_samples = seed_of(config.run.seed, "eval"), config.eval.num_samples
    metrics: Metrics = {}
    with run.time("eval"):
        with awake([parts.engine] if config.engine.sleep else [], level=2):
            parts.sync_engine(version=step)
            if parts.executor is None or "answer" in config.reward.functions:
                metrics |= evaluate(
                    parts.engine, problems, parts.grader,
                    num_samples=num_samples, sampling=sampling, seed=seed, ranks=ranks,
                ).metrics  # fmt: skip
            if parts.executor is not None:
                traces = sample_traces(
                    parts.engine, problems, num_samples=num_samples, sampling=sampling, seed=seed
                )
        if parts.executor is not None:
            with awake([parts.executor.engine] if config.executor_engine.sleep else []):
                metrics |= two_stage(
                    parts.executor, problems, traces,
                    trace_tag=config.uplift.trace_tag, seed=seed, ranks=ranks,
                ).metrics  # fmt: skip
    return {f"eval/{name}": value for name, value in metrics.items()}


def completion_row(parts: RlParts, rollout: Rollout) -> dict[str, Any]:
    """What completions/step-N.jsonl holds of a rollout."""
    return {
        "prompt": parts.policy.tokenizer.decode(rollout.prompt_ids),
        "completion": rollout.text,
        "completion_ids": rollout.completion_ids,
        "rollout_logprobs": rollout.rollout_logprobs,
        "finish_reason": rollout.finish_reason,
        "group": rollout.group,
        "rewards": rollout.rewards,
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        **rollout.extras,
    }
