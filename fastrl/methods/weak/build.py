"""Builds the rewards that need no gold answer, and the probes and judges that measure faithfulness."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from fastrl.config import DataConfig, FaithfulnessConfig, microbatch_tokens, refuse
from fastrl.data.problems import load_problems
from fastrl.engine.build import build_engine
from fastrl.methods.weak.certainty import CertaintyReward, CertaintyScorer
from fastrl.methods.weak.chance import RandomReward
from fastrl.methods.weak.corruption import corrupt_number
from fastrl.methods.weak.judge import Judge
from fastrl.methods.weak.labels import LabelReward
from fastrl.methods.weak.majority import MajorityReward
from fastrl.methods.weak.probes import Probes
from fastrl.runtime.seeding import seed_of
from fastrl.training.reward_inputs import RewardInputs
from fastrl.types import SamplingParams


class WeakRewards:
    """Builds the rewards that need no gold answer, and the one that grades against wrong labels."""

    def __init__(self, inputs: RewardInputs) -> None:
        self.inputs = inputs

    def majority(self) -> MajorityReward:
        return MajorityReward(self.inputs.grader)

    def self_certainty(self) -> CertaintyReward:
        return CertaintyReward("self_certainty", self.certainty)

    def entropy(self) -> CertaintyReward:
        return CertaintyReward("entropy", self.certainty)

    def random(self) -> RandomReward:
        return RandomReward(self.inputs.config.run.seed)

    def label(self) -> LabelReward:
        config = self.inputs.config
        return LabelReward(self.inputs.grader, config.labels, self.inputs.problems, config.run.seed)

    @cached_property
    def certainty(self) -> CertaintyScorer:
        return CertaintyScorer(self.inputs.policy, microbatch_tokens(self.inputs.config))


def build_probes(config: FaithfulnessConfig, data: DataConfig, path: str | None) -> Probes | None:
    """Load the problems and functions of the faithfulness evaluation; None if it is disabled.

    Args:
        data: column names and format of the file of problems.
        path: the evaluation's file; config.path takes precedence.
    Raises:
        ValueError: a function cannot be imported, or the file has fewer than num_problems problems.
    """
    if not config.enabled:
        return None
    path = config.path or path or ""
    problems = load_problems(replace(data, path=path, limit=config.num_problems))
    if len(problems) < config.num_problems:
        refuse("faithfulness", "num_problems", f"<= {len(problems)}, all of {path}", config.num_problems)
    return Probes(
        config=config,
        problems=problems,
        corrupt=imported_function("corrupt", config.corrupt) or corrupt_number,
        checker=imported_function("checker", config.checker),
        strategy=imported_function("strategy", config.strategy),
    )


def build_judges(config: FaithfulnessConfig, device: torch.device, seed: int) -> dict[str, Judge]:
    """Build the configured judges by name, the prefix of their metrics; engines with `sleep` start asleep."""
    judges = {}
    for name, own in config.judges.items():
        engine = build_engine(own.model, own.engine, device)
        if own.engine.sleep:
            engine.sleep()
        sampling = SamplingParams(
            max_new_tokens=own.max_new_tokens, temperature=own.temperature, top_p=own.top_p
        )
        judges[name] = Judge(engine=engine, sampling=sampling, retries=own.retries, seed=seed_of(seed, name))
    return judges


def imported_function(option: str, path: str | None) -> Callable[..., Any] | None:
    """Import a faithfulness option's my_package.module.function; None if the option is null."""
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    if not module:
        refuse("faithfulness", option, "a dotted path such as my_checks.aligned", path)
    try:
        function: Callable[..., Any] | None = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the module exists; one of its own imports is missing
        raise ValueError(
            f"[faithfulness] {option}: expected a module that can be imported, got {path!r}: {error}"
        ) from error
    if not callable(function):
        refuse("faithfulness", option, f"a function of {module}", path)
    return function
