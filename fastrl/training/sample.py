"""Sampling of a step: draw prompts, generate rollouts, reward them, refill groups without signal."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from fastrl.config import LossConfig, RlConfig
from fastrl.config.engines import frozen_engines
from fastrl.data.problems import Problem, reward_columns
from fastrl.data.prompts import render_prompt
from fastrl.engine.protocol import Engine
from fastrl.runtime.context import Context
from fastrl.runtime.seeding import seed_of
from fastrl.training.parts import Parts, WeightedReward
from fastrl.training.truncation import is_masked
from fastrl.types import Rollout, SamplingParams

Reported = dict[str, list[tuple[float, int]]]
"""Metrics of rewards (log_metric): (value, number of rollouts) by name."""


@dataclass(slots=True)
class Sampled:
    """A step's rollouts on this rank, and the state of the data after them."""

    rollouts: list[Rollout] = field(default_factory=list)
    draw: int = 0
    """Number of the next draw, equal on all ranks."""
    groups_drawn: int = 0
    """Groups that this rank sampled, with those that were dropped."""
    staleness: int = 0
    """Updates between the weights that sampled the batch and those that train on it."""
    metrics: Reported = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The completions of one drawn prompt."""

    draw: int
    """Number of the draw in the run, over all ranks."""
    problem: Problem
    rollouts: list[Rollout]
    voters: list[str]
    """Texts of the extra completions that only vote."""


def sample_groups(context: Context[RlConfig], parts: Parts, step: int, draw: int) -> Sampled:
    """Sample and reward num_prompts groups over all ranks; each rank takes every size-th prompt.

    With dynamic sampling, groups whose rewards are all equal are replaced from further draws, up to
    max_refills times; the batch may then be smaller. Neither groups nor their numbers depend on the number of
    ranks.
    """
    config, ranks = context.config, context.ranks
    dynamic, wanted = config.rollout.dynamic_sampling, config.rollout.num_prompts
    out = Sampled(draw=draw, staleness=step - parts.engine.weights_version)
    groups: dict[int, list[Rollout]] = {}
    kept: list[int] = []
    for _ in range(1 + config.rollout.max_refills if dynamic else 1):
        draws = range(out.draw, out.draw + wanted - len(kept))
        own = draws[ranks.rank :: ranks.size]
        out.draw, out.groups_drawn = draws.stop, out.groups_drawn + len(own)
        fresh = zip(own, scored_groups(context, parts, own, step, out), strict=True)
        groups |= {number: group for number, group in fresh if not dynamic or has_signal(group, config.loss)}
        kept = sorted(ranks.gather(list(groups)))
        if len(kept) == wanted:
            break
    for number, group in groups.items():
        for rollout in group:
            rollout.group = kept.index(number)
    out.rollouts = [rollout for group in groups.values() for rollout in group]
    return out


def scored_groups(
    context: Context[RlConfig], parts: Parts, draws: Sequence[int], step: int, out: Sampled
) -> list[list[Rollout]]:
    """Sample and reward the groups of these draws.

    If the rewards' engines have their own devices, they score the first half while the second is sampled.
    """
    config, run = context.config, context.run
    half = -(-len(draws) // 2) if parts.overlap else len(draws)
    # level 2 drops the weights: only if the engine does not generate again before the next sync
    level = 1 if parts.overlap or config.rollout.dynamic_sampling else 2
    groups: list[list[Rollout]] = []
    with one_thread("rewards") as thread:
        rewarded: Future[None] | None = None
        for piece in (draws[:half], draws[half:]):
            if not piece:
                continue
            problems = [parts.problems[parts.order[draw]] for draw in piece]
            with run.time("rollout"), awake([parts.engine] if config.engine.sleep else [], level):
                fresh = generate(parts, config, problems, piece)
            groups += [group.rollouts for group in fresh]
            if parts.overlap and rewarded is None:
                rewarded = thread.submit(reward_groups, parts, config, fresh, step, out.metrics)
                continue
            with run.time("reward"):
                if rewarded is not None:
                    rewarded.result()
                reward_groups(parts, config, fresh, step, out.metrics)
        if rewarded is not None:
            rewarded.result()
    return groups


def one_thread(name: str) -> ThreadPoolExecutor:
    """Return an executor with one thread on this thread's GPU; a new thread would default to cuda:0."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ThreadPoolExecutor(1, name)
    return ThreadPoolExecutor(1, name, torch.cuda.set_device, (torch.cuda.current_device(),))


def reward_groups(
    parts: Parts, config: RlConfig, groups: Sequence[Group], step: int, metrics: Reported
) -> None:
    """Set the rewards of all rollouts, with the rewards' engines awake."""
    entries = frozen_engines(config).values()
    sleeping = [parts.frozen_engines[entry.name] for entry in entries if entry.engine.sleep]
    with awake(sleeping):
        reward_rollouts(parts.rewards, groups, step, metrics)


@contextmanager
def awake(engines: Collection[Engine], level: int = 1) -> Iterator[None]:
    """Wake these engines for the block, then put them to sleep.

    Args:
        level: 2 drops their weights, for engines that receive all weights before they generate again.
    """
    for engine in engines:
        engine.wake()
    try:
        yield
    finally:
        for engine in engines:
            engine.sleep(level)


def load_rollout_weights(context: Context[RlConfig], parts: Parts, step: int) -> None:
    """Wake the policy's engine and copy the current weights to it."""
    with context.run.time("weight_sync"):
        if context.config.engine.sleep:
            parts.engine.wake()
        parts.sync_engine(version=step)


def join_sync(parts: Parts, config: RlConfig, version: int) -> None:
    """Take part in a weight sync that the first rank starts for an evaluation.

    Gathering a sharded policy's weights is a collective, so all other ranks call this.
    """
    if parts.policy.sharding:
        with awake([parts.engine] if config.engine.sleep else [], level=2):
            parts.sync_engine(version)


def has_signal(group: Sequence[Rollout], loss: LossConfig) -> bool:
    """Return True if two rewards of the group differ at all, and the loss masks not all of its rollouts.

    Rollouts without a reward don't count, nor do masked ones with out_of_baseline.
    """
    rewarded = [rollout for rollout in group if not math.isnan(rollout.reward)]
    trained = [rollout for rollout in rewarded if not is_masked(rollout, loss)]
    compared = trained if loss.mask_truncated_completions == "out_of_baseline" else rewarded
    return bool(trained) and len({rollout.reward for rollout in compared}) > 1


def generate(
    parts: Parts, config: RlConfig, problems: Sequence[Problem], draws: Sequence[int]
) -> list[Group]:
    """Sample group_size rollouts and num_voters voters per problem, with seeds from (run seed, draw)."""
    prompts = [render_prompt(parts.policy.tokenizer, problem.messages) for problem in problems]
    size = config.rollout.group_size
    completions = parts.engine.generate(
        prompts,
        rollout_sampling(config),
        seeds=[seed_of(config.run.seed, "rollout", draw) for draw in draws],
        n=size + config.rollout.num_voters,
    )
    return [
        Group(
            draw=draw,
            problem=problem,
            rollouts=[
                Rollout(prompt, c.token_ids, c.logprobs, c.text, c.finish_reason, group=-1)
                for c in found[:size]
            ],
            voters=[completion.text for completion in found[size:]],
        )
        for draw, problem, prompt, found in zip(draws, problems, prompts, completions, strict=True)
    ]


def rollout_sampling(config: RlConfig) -> SamplingParams:
    rollout = config.rollout
    return SamplingParams(
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        stop=rollout.stop,
    )


def reward_rollouts(
    rewards: Sequence[WeightedReward], groups: Sequence[Group], step: int, metrics: Reported
) -> None:
    """Set rewards, reward and extras of every rollout: reward = sum of weight * value, without None.

    Each function is called once, with TRL's signature: prompts, completions, completion_ids, trainer_state,
    log_extra, log_metric and every dataset column as a list with one entry per rollout. Further columns:
    rollout_ids and group_ids (numbers in the whole run), problem_ids (row in the file), voters (texts that
    vote in the rollout's group) and finish_reasons (stop, or length if the completion was cut off).
    """
    rows = [(group, rollout) for group in groups for rollout in group.rollouts]
    problems, rollouts = [group.problem for group, _ in rows], [rollout for _, rollout in rows]

    def log_extra(column: str, values: Sequence[Any]) -> None:
        for rollout, value in zip(rollouts, values, strict=True):
            rollout.extras[column] = value

    columns = reward_columns(problems) | {
        "rollout_ids": [
            group.draw * len(group.rollouts) + j for group in groups for j in range(len(group.rollouts))
        ],
        "group_ids": [group.draw for group, _ in rows],
        "problem_ids": [problem.index for problem in problems],
        "voters": [group.voters for group, _ in rows],
        "finish_reasons": [rollout.finish_reason for rollout in rollouts],
    }
    for reward in rewards:
        values = reward.function(
            prompts=[problem.messages for problem in problems],
            completions=[[{"role": "assistant", "content": rollout.text}] for rollout in rollouts],
            completion_ids=[rollout.completion_ids for rollout in rollouts],
            trainer_state=SimpleNamespace(global_step=step),
            log_extra=log_extra,
            log_metric=lambda name, value: metrics[name].append((float(value), len(rollouts))),
            **columns,
        )
        values = asyncio.run(values) if inspect.iscoroutine(values) else values
        check_rewards(reward.name, values, len(rollouts))
        for rollout, value in zip(rollouts, values, strict=True):
            rollout.rewards[reward.name] = value if value is None else float(value)
    for rollout in rollouts:
        rollout.reward = total_reward(rollout, rewards)


def total_reward(rollout: Rollout, rewards: Sequence[WeightedReward]) -> float:
    """Return the sum of weight * value over the rewards that apply and have a weight; NaN if none does."""
    given = [
        reward.weight * value
        for reward in rewards
        if reward.weight and (value := rollout.rewards[reward.name]) is not None
    ]
    return math.fsum(given) if given else math.nan


def check_rewards(name: str, values: Any, expected: int) -> None:
    if not hasattr(values, "__len__") or len(values) != expected:
        got = len(values) if hasattr(values, "__len__") else type(values).__name__
        raise ValueError(f"[reward] {name}: expected {expected} values, one per completion, got {got}")
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"[reward] {name}: expected finite numbers or None, got {value}")
