"""The RL stage: sample, reward, learn, again. One screen."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from fastrl.build import RlParts, build_rl
from fastrl.checkpoint import latest_checkpoint, load_optimizer, save_checkpoint
from fastrl.config import RlConfig
from fastrl.distributed import Ranks
from fastrl.evaluate.accuracy import evaluate
from fastrl.evaluate.two_stage import sample_traces, two_stage
from fastrl.policy.optimizer import learning_rate
from fastrl.report.reporter import Reporter
from fastrl.run import Run, read_metrics
from fastrl.seeding import seed_of
from fastrl.stages.advantages import fill_advantages
from fastrl.stages.alarm import Alarms
from fastrl.stages.engine_metrics import count, engine_metrics
from fastrl.stages.faithfulness import faithfulness
from fastrl.stages.metrics import Metrics, step_metrics
from fastrl.stages.sample import awake, sample_groups
from fastrl.stages.update import update_policy
from fastrl.types import Rollout, SamplingParams


def run_rl(config: RlConfig, ranks: Ranks | None = None) -> Path:
    """Train until train.num_steps, or an alarm of alarm.stop_on, from the run folder's last checkpoint if it
    has one.

    Returns: the folder of the last checkpoint.

    Raises:
        ValueError, FileNotFoundError: the configuration can't be run; before a model is loaded if possible.
        FloatingPointError: a gradient was NaN or infinite; nothing was changed by it.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    checkpoint = latest_checkpoint(run.checkpoints)
    parts = build_rl(config, checkpoint)
    state: dict[str, Any] = {"step": 0, "draws": [0] * ranks.size}
    if checkpoint:
        state = load_optimizer(checkpoint, parts.policy, parts.optimizer)
    run.rewind(state["step"] if checkpoint else -1)
    with closing(parts), Reporter(run, config) as reporter:
        if not checkpoint:
            measured = faithfulness(parts, config, run, ranks, step=0)
            reporter.log(0, evaluation(parts, config, run, ranks, step=0) | measured)
        last = train(config, parts, run, reporter, ranks, state)
    return run.checkpoints / f"step-{last:06d}"


def train(
    config: RlConfig, parts: RlParts, run: Run, reporter: Reporter, ranks: Ranks, state: dict[str, Any]
) -> int:
    """Returns the last step: train.num_steps, unless an alarm ended training."""
    step, draw = state["step"], state["draws"][ranks.rank]
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
        sampled = sample_groups(parts, config, run, ranks, step, draw)
        draw = sampled.draw
        fill_advantages(sampled.rollouts, parts.rewards, config.reward, ranks)
        with run.time("update"):
            stats, norms = update_policy(parts, sampled.rollouts, config, ranks, step)
        lr = learning_rate(step, config.train)

        step += 1
        metrics = step_metrics(sampled, parts.rewards, stats, norms, lr, ranks)
        metrics |= engine_metrics(counted, count(parts.engines), ranks)
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
        if wants(step, config.run.save_every, last):
            draws = ranks.gather([draw])
            if ranks.first:
                state = {"step": step, "draws": draws}
                save_checkpoint(run.checkpoints, parts.policy, parts.optimizer, state, config.run.keep_last)
            ranks.wait()
    return last


def ended(alarms: Alarms, ranks: Ranks) -> bool:
    """Whether an alarm ends training; the first rank alone has seen all of the run."""
    return ranks.sum([float(ranks.first and alarms.stops)])[0] > 0


def wants(step: int, every: int, last: int) -> bool:
    """Every so many steps, and after the last one."""
    return step == last or (every > 0 and step % every == 0)


def evaluation(parts: RlParts, config: RlConfig, run: Run, ranks: Ranks, step: int) -> Metrics:
    """eval/... of the current weights, by the first rank; empty where no evaluation is configured. Where the
    policy writes traces for an executor, of the two together and of the executor alone."""
    if not parts.eval_problems or not ranks.first:
        return {}
    sampling = SamplingParams(
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.eval.temperature,
        top_p=config.eval.top_p,
        stop=config.rollout.stop,
    )
    seed, num_samples = seed_of(config.run.seed, "eval"), config.eval.num_samples
    metrics: Metrics = {}
    with run.time("eval"):
        with awake([parts.engine] if config.engine.sleep else []):
            parts.sync_engine(version=step)
            if parts.executor is None or "answer" in config.reward.functions:
                metrics |= evaluate(
                    parts.engine, parts.eval_problems, parts.grader,
                    num_samples=num_samples, sampling=sampling, seed=seed,
                ).metrics  # fmt: skip
            if parts.executor is not None:
                traces = sample_traces(
                    parts.engine, parts.eval_problems, num_samples=num_samples, sampling=sampling, seed=seed
                )
        if parts.executor is not None:
            with awake([parts.executor.engine] if config.executor_engine.sleep else []):
                metrics |= two_stage(
                    parts.executor, parts.eval_problems, traces,
                    trace_tag=config.uplift.trace_tag, seed=seed,
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
