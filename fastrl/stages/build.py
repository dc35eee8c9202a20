"""From configuration to live parts: engines, rewards, policy. The only place that chooses."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    ExecutorConfig,
    FaithfulnessConfig,
    ModelConfig,
    RlConfig,
    RunConfig,
    microbatch_tokens,
    refuse,
)
from fastrl.config.rl import WITHOUT_GOLD
from fastrl.data.order import ProblemOrder
from fastrl.data.problems import Problem, load_problems
from fastrl.engine.protocol import Engine
from fastrl.engine.tree.engine import TorchEngine
from fastrl.grading.pool import AnswerGrader
from fastrl.grading.programs.runner import ProgramRunner
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.program_verifier import CodeVerifier
from fastrl.methods.tracelift.rubric import RubricReward, RubricScorer
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.methods.tracelift.verifiers import MathVerifier, Verifier
from fastrl.methods.weak.certainty import CertaintyReward, CertaintyScorer
from fastrl.methods.weak.chance import RandomReward
from fastrl.methods.weak.corruption import corrupt_number
from fastrl.methods.weak.judge import Judge
from fastrl.methods.weak.labels import LabelReward
from fastrl.methods.weak.majority import MajorityReward
from fastrl.methods.weak.probes import Probes
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.model import Policy, compute_dtype
from fastrl.policy.optimizer import make_optimizer
from fastrl.policy.shard import Sharding
from fastrl.rewards.answer import AnswerReward
from fastrl.rewards.format import FormatReward
from fastrl.runtime.seeding import seed_of
from fastrl.types import SamplingParams

BUILT_IN_REWARDS = ("answer", "format", "transfer", "uplift", "rubric", *WITHOUT_GOLD)


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
    bad_steps: BadSteps
    """Which gradients are applied."""
    synced: bool = False
    """The engine has had all of the policy's weights."""
    probes: Probes | None = None
    """What faithfulness is measured with; None where it is not asked for."""
    judges: dict[str, Judge] = field(default_factory=dict)
    """Those that eval.faithfulness names, from their first use on."""

    def sync_engine(self, version: int) -> None:
        """The policy's weights to its engine: all of them at first, then those that training changes, where
        these are fewer and the engine has the others."""
        partial = self.synced and self.policy.adapted and self.engine.takes_partial_weights
        self.engine.load_weights(self.policy.named_weights(changed_only=partial), version, partial)
        self.synced = True

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
    sharding = Sharding.of(config.train)
    policy = Policy.load(config.model, device, checkpoint, seed_of(config.run.seed, "lora"), sharding)
    grader = AnswerGrader(num_workers=config.reward.answer_workers, timeout_s=config.reward.answer_timeout_s)
    engine = build_engine(config.model, config.engine, device)
    if config.engine.sleep:
        engine.sleep(level=2)
    receivers: dict[str, Engine] = {}
    needs_reference = config.loss.kl_coef and not receiver_is_reference(config)
    builder = RewardBuilder(config, policy, grader, problems, device, receivers)
    own_devices = [
        engine_device(own, device) != engine_device(config.engine, device)
        for own in config.reward_engines.values()
    ]
    return RlParts(
        policy=policy,
        reference=build_reference(config.model, policy, device) if needs_reference else None,
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
        bad_steps=BadSteps(config.train),
        probes=build_probes(config.eval.faithfulness, config.data, config.eval.path),
    )


def build_engine(model: CheckpointConfig, config: EngineConfig, device: torch.device) -> Engine:
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
        from fastrl.engine.vllm.engine import VllmEngine

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
        self, config: RlConfig, policy: Policy, grader: AnswerGrader, problems: list[Problem],
        device: torch.device, receivers: dict[str, Engine],
    ) -> None:  # fmt: skip
        self.config, self.policy, self.grader, self.problems = config, policy, grader, problems
        self.device, self.receivers = device, receivers

    def rewards(self) -> list[WeightedReward]:
        weighted = self.config.weighted_rewards
        return [WeightedReward(name, self.make(name), weight) for name, weight in weighted.items()]

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
        if name == "majority":
            return MajorityReward(self.grader)
        if name == "self_certainty":
            return CertaintyReward("self_certainty", self.certainty)
        if name == "entropy":
            return CertaintyReward("entropy", self.certainty)
        if name == "random":
            return RandomReward(seed)
        if name == "label":
            return LabelReward(self.grader, self.config.labels, self.problems, seed)
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
        return RubricScorer(model, microbatch_tokens(self.config))

    @cached_property
    def certainty(self) -> CertaintyScorer:
        return CertaintyScorer(self.policy, microbatch_tokens(self.config))

    def _joined(self, name: str, model: CheckpointConfig) -> Engine:
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


def build_probes(config: FaithfulnessConfig, data: DataConfig, path: str | None) -> Probes | None:
    """What faithfulness is measured with, before any model; None where it is not enabled.

    Args:
        data: how the file of problems is read.
        path: the evaluation's file, which is used unless the configuration names one.
    Raises:
        ValueError: a function that is not there, or more problems asked for than the file has.
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
    """Under the names that metrics carry; their engines asleep where they shall sleep."""
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
    """A faithfulness option's my_package.module.function; None where it is null."""
    if path is None:
        return None
    module, _, name = path.rpartition(".")
    if not module:
        refuse("faithfulness", option, "a dotted path such as my_checks.aligned", path)
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the module is there, and what it imports is not
        raise ValueError(
            f"[faithfulness] {option}: expected a module that can be imported, got {path!r}: {error}"
        ) from error
    if not callable(function):
        refuse("faithfulness", option, f"a function of {module}", path)
    return function


def imported_reward(path: str) -> Callable[..., Any]:
    """my_package.module.function, with TRL's reward signature."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(
            f"[reward] functions: expected {', '.join(BUILT_IN_REWARDS)} or a dotted path such as "
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


def build_reference(model: ModelConfig, policy: Policy, device: torch.device) -> Policy:
    """What training starts from, frozen: a model of its own, spread like the policy, or the policy's without
    its adapters."""
    if policy.adapted:
        return policy.before_training()
    start = Policy.load(model, device, sharding=policy.sharding)
    start.model.eval().requires_grad_(False)
    return start
