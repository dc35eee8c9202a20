"""From configuration to live parts: engines, rewards, policy. The only place that chooses."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fastrl.config import EngineConfig, ExecutorConfig, ModelConfig, RlConfig, RunConfig
from fastrl.data.order import ProblemOrder
from fastrl.data.problems import Problem, load_problems
from fastrl.engine.protocol import Engine
from fastrl.engine.torch_engine import TorchEngine
from fastrl.policy.model import Policy, compute_dtype
from fastrl.policy.optimizer import make_optimizer
from fastrl.policy.rubric_model import RubricModel
from fastrl.rewards.answer import AnswerReward
from fastrl.rewards.executor import Executor
from fastrl.rewards.format import FormatReward
from fastrl.rewards.program_verifier import CodeVerifier
from fastrl.rewards.rubric import RubricReward, RubricScorer
from fastrl.rewards.transfer import TransferReward
from fastrl.rewards.uplift import UpliftReward
from fastrl.rewards.verifiers import MathVerifier, Verifier
from fastrl.verify.pool import AnswerGrader
from fastrl.verify.programs import ProgramRunner


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward function under the name that metrics carry."""

    name: str
    function: Callable[..., Any]
    weight: float


@dataclass(slots=True)
class RlParts:
    """Everything an RL stage works with."""

    policy: Policy
    reference: Policy | None
    """The frozen start of training; None where no KL is asked for, or the receiver is it."""
    engine: Engine
    receivers: dict[str, Engine]
    """Engines of rewards."""
    optimizer: torch.optim.AdamW
    problems: list[Problem]
    order: ProblemOrder
    rewards: list[WeightedReward]
    grader: AnswerGrader
    eval_problems: list[Problem]
    overlap: bool
    """Engines of rewards have devices of their own, so that they may work while the policy samples."""
    executor: Executor | None
    """That the uplift reward asks."""

    def close(self) -> None:
        """Ends the processes that grade answers and run programs."""
        self.grader.close()
        if self.executor is not None:
            self.executor.verifier.close()

    @property
    def engines(self) -> dict[str, Engine]:
        """All of them, under the names that metrics carry."""
        return {"policy": self.engine, **self.receivers}


def choose_device(config: RunConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ValueError("[run] device: cuda was asked for, and torch sees no CUDA device; use cpu or auto")
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def build_rl(config: RlConfig, checkpoint: Path | None = None) -> RlParts:
    """Load what the stage needs; the policy's weights come from `checkpoint` where there is one."""
    device = choose_device(config.run)
    problems = load_problems(config.data)
    trained = config.model if checkpoint is None else _at(config.model, checkpoint)
    policy = Policy.load(trained, device)
    grader = AnswerGrader(num_workers=config.reward.answer_workers, timeout_s=config.reward.answer_timeout_s)
    engine = build_engine(config.model, config.engine, device)
    if config.engine.sleep:
        engine.sleep()
    receivers: dict[str, Engine] = {}
    needs_reference = config.loss.kl_coef and not receiver_is_reference(config)
    builder = RewardBuilder(config, policy, grader, device, receivers)
    own_devices = [
        engine_device(own, device) != engine_device(config.engine, device)
        for own in config.reward_engines.values()
    ]
    return RlParts(
        policy=policy,
        reference=frozen(Policy.load(config.model, device)) if needs_reference else None,
        engine=engine,
        receivers=receivers,
        optimizer=make_optimizer(policy, config.train),
        problems=problems,
        order=ProblemOrder(len(problems), config.run.seed),
        rewards=builder.rewards(),
        grader=grader,
        eval_problems=build_eval_problems(config),
        overlap=bool(own_devices) and all(own_devices),
        executor=builder.executor if config.uses_uplift else None,
    )


def build_engine(model: ModelConfig, config: EngineConfig, device: torch.device) -> Engine:
    """The engine of a checkpoint, awake.

    Raises:
        ValueError: the kind is not one that builds, or vLLM is not installed.
    """
    device = engine_device(config, device)
    shared: dict[str, Any] = {
        "dtype": compute_dtype(model, device),
        "device": device,
        "max_batch_tokens": config.max_batch_tokens,
        "keep_prompts": config.keep_prompts,
        "trust_remote_code": model.trust_remote_code,
    }
    if config.kind == "vllm":
        # here, since it is optional
        from fastrl.engine.vllm_engine import VllmEngine

        return VllmEngine(model.path, enforce_eager=config.enforce_eager, **shared)
    if config.kind == "torch":
        return TorchEngine.from_pretrained(model.path, **shared)
    raise ValueError(f"[engine] kind: expected torch or vllm, got {config.kind!r}")


def engine_device(config: EngineConfig, device: torch.device) -> torch.device:
    """Its own, or else the run's."""
    return device if config.device == "auto" else torch.device(config.device)


class RewardBuilder:
    """Makes the functions that reward.functions names. Their engines join `receivers`, asleep where they
    shall sleep; what two rewards use is made once."""

    def __init__(
        self, config: RlConfig, policy: Policy, grader: AnswerGrader, device: torch.device,
        receivers: dict[str, Engine],
    ) -> None:  # fmt: skip
        self.config, self.policy, self.grader = config, policy, grader
        self.device, self.receivers = device, receivers

    def rewards(self) -> list[WeightedReward]:
        pairs = zip(self.config.reward.functions, self.config.reward.weights, strict=True)
        return [WeightedReward(name, self.make(name), weight) for name, weight in pairs]

    def make(self, name: str) -> Callable[..., Any]:
        """A reward by its name; a dotted path is imported."""
        uplift, seed = self.config.uplift, self.config.run.seed
        if name == "answer":
            return AnswerReward(self.grader)
        if name == "format":
            return FormatReward()
        if name == "transfer":
            return self.transfer()
        if name == "uplift":
            scorer = self.scorer if uplift.needs_quality else None
            return UpliftReward(self.executor, uplift, scorer, seed)
        if name == "rubric":
            return RubricReward(self.scorer, uplift.executor.task, uplift.trace_tag)
        return imported_reward(name)

    def transfer(self) -> TransferReward:
        config = self.config
        receiver = self._joined("receiver", config.transfer.receiver)
        return TransferReward(
            receiver, self.policy.tokenizer, self.grader, config.transfer,
            max_new_tokens=config.rollout.max_new_tokens, seed=config.run.seed,
            ref_temperature=config.rollout.temperature if receiver_is_reference(config) else None,
        )  # fmt: skip

    @cached_property
    def executor(self) -> Executor:
        own, reward = self.config.uplift.executor, self.config.reward
        verifier = build_verifier(own, reward.answer_workers, reward.answer_timeout_s)
        return Executor(self._joined("executor", own.model), own, verifier)

    @cached_property
    def scorer(self) -> RubricScorer:
        """Of the reward model, in the run's compute type."""
        dtype = compute_dtype(self.config.model, self.device)
        model = RubricModel.load(self.config.uplift.reward_model, self.device, dtype)
        return RubricScorer(model, self.config.train.tokens_per_microbatch)

    def _joined(self, name: str, model: ModelConfig) -> Engine:
        config = self.config.reward_engines[name]
        engine = build_engine(model, config, self.device)
        if config.sleep:
            engine.sleep()
        self.receivers[name] = engine
        return engine


def build_executor(
    config: ExecutorConfig, engine: EngineConfig, device: torch.device, answer_workers: int = 2,
    answer_timeout_s: float = 5.0,
) -> Executor:  # fmt: skip
    """A frozen executor, its engine awake; executor.verifier.close() ends its processes.

    Args:
        engine: in the place of executor.engine where that is of kind same.
        answer_workers: grading processes, for math.
        answer_timeout_s: of one answer, for math.
    """
    own = engine if config.engine.kind == "same" else config.engine
    verifier = build_verifier(config, answer_workers, answer_timeout_s)
    return Executor(build_engine(config.model, own, device), config, verifier)


def build_verifier(config: ExecutorConfig, answer_workers: int, answer_timeout_s: float) -> Verifier:
    if config.task == "code":
        return CodeVerifier(ProgramRunner(config.program))
    return MathVerifier(AnswerGrader(answer_workers, answer_timeout_s, allow_last_number=True))


def receiver_is_reference(config: RlConfig) -> bool:
    """The receiver is the policy's start: its prefill gives the reference's log-probs as well."""
    transfer = config.transfer
    same_start = config.uses_transfer and transfer.receiver.path == config.model.path
    return bool(config.loss.kl_coef) and same_start and transfer.mode != "teacher"


def imported_reward(path: str) -> Callable[..., Any]:
    """my_package.module.function, with TRL's reward signature."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(
            f"[reward] functions: expected answer, format, transfer, uplift, rubric or a dotted path such as "
            f"my_rewards.length, got {path!r}"
        )
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ValueError(f"[reward] functions: {module} has no function {name!r}")
    return function


def build_eval_problems(config: RlConfig) -> list[Problem]:
    if config.eval.path is None:
        return []
    return load_problems(replace(config.data, path=config.eval.path, limit=config.eval.limit))


def frozen(policy: Policy) -> Policy:
    policy.model.eval().requires_grad_(False)
    return policy


def _at(model: ModelConfig, checkpoint: Path) -> ModelConfig:
    return replace(model, path=str(checkpoint))
