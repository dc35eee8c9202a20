"""Builds the parts of an RL run from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastrl.config import ModelConfig, RlConfig
from fastrl.config.engines import engine_table, frozen_engines
from fastrl.config.rl import OVERLONG
from fastrl.data.order import ProblemOrder
from fastrl.data.problems import load_problems
from fastrl.data.templates import use_template
from fastrl.engine.build import build_engine, choose_device, engine_device
from fastrl.grading.pool import AnswerGrader
from fastrl.methods.rltr.build import receiver_is_reference, transfer_reward
from fastrl.methods.tracelift.build import TraceLiftRewards
from fastrl.methods.tracelift.while_training import TwoStageEvaluator
from fastrl.methods.weak.build import WeakRewards, build_probes
from fastrl.methods.weak.while_training import FaithfulnessEvaluator
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import make_optimizer
from fastrl.policy.shard import Sharding
from fastrl.rewards.answer import AnswerReward
from fastrl.rewards.format import FormatReward
from fastrl.rewards.imported import imported_reward
from fastrl.rewards.overlong import SoftOverlongPunishment
from fastrl.runtime.seeding import seed_of
from fastrl.training.evaluation import AccuracyEvaluator
from fastrl.training.parts import Evaluator, Parts, WeightedReward
from fastrl.training.reward_inputs import RewardInputs


def build_rl(config: RlConfig, checkpoint: Path | None = None) -> Parts:
    """Load models, problems, engines and rewards; the policy's weights come from `checkpoint` if given."""
    device, resources = choose_device(config.run), ExitStack()
    problems = load_problems(config.data)
    sharding = Sharding.of(config.train)
    policy = Policy.load(config.model, device, checkpoint, seed_of(config.run.seed, "lora"), sharding)
    grader = AnswerGrader.of(config.answer)
    resources.callback(grader.close)
    use_template(policy.tokenizer, config.data)
    engine = build_engine(config.model, config.engine, device, config.data)
    if config.engine.sleep:
        engine.sleep(level=2)
    inputs = RewardInputs(config, policy, grader, problems, device, resources)
    tracelift = TraceLiftRewards(inputs)
    needs_reference = config.loss.kl_coef and not receiver_is_reference(config)
    return Parts(
        policy=policy,
        reference=build_reference(config.model, policy, device) if needs_reference else None,
        engine=engine,
        frozen_engines=inputs.engines,
        optimizer=make_optimizer(policy, config.train),
        problems=problems,
        order=ProblemOrder(len(problems), config.run.seed),
        rewards=build_rewards(inputs, tracelift),
        grader=grader,
        evaluators=build_evaluators(config, tracelift),
        overlap=rewards_may_overlap(config, device),
        bad_steps=BadSteps(config.train),
        resources=resources,
    )


def build_rewards(inputs: RewardInputs, tracelift: TraceLiftRewards) -> list[WeightedReward]:
    """Build the rewards in reward.functions; a name that is not built in is imported as a dotted path."""
    config, weak = inputs.config, WeakRewards(inputs)
    longest, overlong = config.rollout.max_new_tokens, config.overlong_tokens
    builders: dict[str, Callable[[], Callable[..., Any]]] = {
        "answer": partial(AnswerReward, inputs.grader),
        "format": FormatReward,
        OVERLONG: partial(SoftOverlongPunishment, longest, overlong),
        "transfer": partial(transfer_reward, inputs),
        "uplift": tracelift.uplift,
        "rubric": tracelift.rubric,
        "majority": weak.majority,
        "self_certainty": weak.self_certainty,
        "entropy": weak.entropy,
        "random": weak.random,
        "label": weak.label,
    }
    return [
        WeightedReward(name, builders[name]() if name in builders else imported_reward(name), weight)
        for name, weight in config.weighted_rewards.items()
    ]


def build_evaluators(config: RlConfig, tracelift: TraceLiftRewards) -> list[Evaluator]:
    """Build the evaluators: accuracy, a planner's accuracy with its executor, and faithfulness."""
    evaluators: list[Evaluator] = []
    if config.eval.path is not None:
        problems = load_problems(replace(config.data, path=config.eval.path, limit=config.eval.limit))
        if not config.uses_uplift or "answer" in config.reward.functions:
            evaluators.append(AccuracyEvaluator(config.eval.every, problems))
        if config.uses_uplift:
            evaluators.append(TwoStageEvaluator(config.eval.every, problems, tracelift.executor))
    faithfulness = config.eval.faithfulness
    probes = build_probes(faithfulness, config.data, config.eval.path)
    if probes is not None:
        evaluators.append(FaithfulnessEvaluator(faithfulness.every, probes))
    return evaluators


def rewards_may_overlap(config: RlConfig, device: torch.device) -> bool:
    """Return True if the rewards have engines, and none shares a device with the policy's engine."""
    table = engine_table(config)
    policy = engine_device(table["policy"].engine, device)
    frozen = [engine_device(entry.engine, device) for entry in frozen_engines(config).values()]
    return bool(frozen) and policy not in frozen


def build_reference(model: ModelConfig, policy: Policy, device: torch.device) -> Policy:
    """Load the initial model, frozen and sharded like the policy; with adapters, return the policy's model
    without them."""
    if policy.adapted:
        return policy.before_training()
    start = Policy.load(model, device, sharding=policy.sharding)
    start.model.eval().requires_grad_(False)
    return start
