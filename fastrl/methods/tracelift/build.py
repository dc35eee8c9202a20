"""Builds the frozen executor with its verifier, and the rewards uplift and rubric."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch

from fastrl.config import AnswerConfig, EngineConfig, ExecutorConfig, microbatch_tokens
from fastrl.engine.build import build_engine
from fastrl.grading.pool import AnswerGrader
from fastrl.grading.programs.runner import ProgramRunner
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.program_verifier import CodeVerifier
from fastrl.methods.tracelift.rubric import RubricReward, RubricScorer
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.methods.tracelift.verifiers import MathVerifier, Verifier
from fastrl.policy.model import compute_dtype
from fastrl.training.reward_inputs import RewardInputs


class TraceLiftRewards:
    """Builds the rewards uplift and rubric; executor and reward model are loaded once, when needed."""

    def __init__(self, inputs: RewardInputs) -> None:
        self.inputs = inputs

    def uplift(self) -> UpliftReward:
        config = self.inputs.config
        scorer = self.scorer if config.uplift.needs_quality else None
        return UpliftReward(self.executor, config.uplift, scorer, config.run.seed)

    def rubric(self) -> RubricReward:
        uplift = self.inputs.config.uplift
        return RubricReward(self.scorer, uplift.executor.task, uplift.trace_tag)

    @cached_property
    def executor(self) -> Executor:
        own = self.inputs.config.uplift.executor
        verifier = build_verifier(own, self.inputs.config.answer)
        self.inputs.resources.callback(verifier.close)
        return Executor(self.inputs.engine("executor"), own, verifier)

    @cached_property
    def scorer(self) -> RubricScorer:
        """The reward model's scorer, in the run's compute dtype."""
        config, device = self.inputs.config, self.inputs.device
        model = RubricModel.load(config.uplift.reward_model, device, compute_dtype(config.model, device))
        return RubricScorer(model, microbatch_tokens(config))


def build_executor(
    config: ExecutorConfig, engine: EngineConfig, device: torch.device, answer: AnswerConfig | None = None
) -> Executor:  # fmt: skip
    """Build a frozen executor with its engine awake; executor.verifier.close() ends the grading processes.

    Args:
        engine: engine options for executor.engine.kind "same".
        answer: how math answers are graded; extraction is always last_number.
    """
    own = engine if config.engine.kind == "same" else config.engine
    verifier = build_verifier(config, answer or AnswerConfig())
    return Executor(build_engine(config.model, own, device), config, verifier)


def build_verifier(config: ExecutorConfig, answer: AnswerConfig) -> Verifier:
    if config.task == "code":
        return CodeVerifier(ProgramRunner(config.program))
    return MathVerifier(AnswerGrader.of(replace(answer, extraction="last_number")))
