"""Checks of an RL stage before a model is loaded: files, rewards, lengths, devices, packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from fastrl.check.executor import check_uplift
from fastrl.check.model import check_fits
from fastrl.config import EngineConfig, RlConfig, refuse
from fastrl.config.engines import engine_table
from fastrl.config.rl import BUILT_IN_REWARDS
from fastrl.data.problems import Problem, load_problems
from fastrl.engine.build import choose_device, engine_device
from fastrl.engine.vllm.adapter import unusable
from fastrl.grading import AnswerGrader
from fastrl.methods.weak.labels import item_labels
from fastrl.rewards.imported import imported_reward


def check_rl(config: RlConfig) -> None:
    """Check an RL stage.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    check_rewards(config)
    for entry in engine_table(config).values():
        if entry.phase != "judge":  # see check_trained_faithfulness
            check_engine(entry.section, entry.engine)
    check_devices(config, choose_device(config.run))
    problems = load_problems(config.data)
    check_labels(config, problems)
    if config.eval.path is not None:
        problems = problems + load_problems(
            replace(config.data, path=config.eval.path, limit=config.eval.limit)
        )
    check_lengths(config, problems)
    check_uplift(config, problems)


def check_rewards(config: RlConfig) -> None:
    """Raise ValueError for an unknown reward, one without its model, or if all weights are 0."""
    for name in config.reward.functions:
        if name not in BUILT_IN_REWARDS:
            check_imported(name)
    if not any(config.reward.weights):
        refuse("reward", "weights", "at least one that is not 0", config.reward.weights)
    if config.uses_transfer and not config.transfer.receiver.path:
        refuse("transfer", "receiver.path", "a model folder, since reward.functions has transfer", "")

    votes = "majority" in config.reward.functions
    if config.rollout.num_voters and not votes and set(config.reward.functions) <= set(BUILT_IN_REWARDS):
        refuse("rollout", "num_voters", "0, since no reward uses votes", config.rollout.num_voters)


def check_labels(config: RlConfig, problems: Sequence[Problem]) -> None:
    """Raise ValueError if the reward label lacks wrong labels, or one may equal the gold answer."""
    if "label" in config.reward.functions:
        with AnswerGrader.of(config.answer) as grader:
            item_labels(problems, config.labels, config.run.seed, grader)


def check_engine(section: str, engine: EngineConfig) -> None:
    """Raise ValueError if the engine's device is missing, or vLLM is missing or in a wrong version."""
    devices = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if engine.device not in devices:
        refuse(section, "device", f"one of {devices}", engine.device)
    if engine.kind == "vllm" and (reason := unusable()):
        raise ValueError(f"[{section}] kind: expected a usable vllm, got: {reason}")


def check_devices(config: RlConfig, policy: torch.device) -> None:
    """Raise ValueError if an engine that generates during the update is on a GPU of the policy.

    There the two would wait for each other, so rollout.max_staleness 1 would save no time.
    """
    if not config.rollout.max_staleness or policy.type != "cuda":
        return
    taken = {str(policy), *(f"cuda:{i}" for i in range(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))}
    for entry in engine_table(config).values():
        if entry.phase != "judge" and str(engine_device(entry.engine, policy)) in taken:
            expected = f"none of the policy's {', '.join(sorted(taken))}, since rollout.max_staleness is 1"
            refuse(entry.section, "device", expected, entry.engine.device)


def check_imported(path: str) -> None:
    """Raise ValueError if a reward's dotted path can't be imported."""
    try:
        imported_reward(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the module exists, but one that it imports does not
        raise ValueError(
            f"[reward] functions: expected a module that can be imported, got {path!r}: {error}"
        ) from error


def check_lengths(config: RlConfig, problems: Sequence[Problem]) -> None:
    """Raise ValueError if the longest prompt and completion exceed a context or an engine's cache."""
    longest = config.rollout.max_new_tokens
    check_fits(
        "model", config.model, problems, longest, "rollout.max_new_tokens", config.engine.max_batch_tokens,
        data=config.data,
    )  # fmt: skip
    if config.uses_transfer:
        longest += config.transfer.slack_tokens
        names = "rollout.max_new_tokens + transfer.slack_tokens"
        receiver = engine_table(config)["receiver"]
        check_fits(
            receiver.model_section, receiver.model, problems, longest, names,
            receiver.engine.max_batch_tokens, receiver.section,
        )  # fmt: skip
