"""Options of the RL stage: rollouts, rewards, evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastrl.config.alarm import AlarmConfig
from fastrl.config.answer import AnswerConfig
from fastrl.config.base import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_at_least,
    check_positive,
    refuse,
    take_schedule,
)
from fastrl.config.engine import EngineConfig
from fastrl.config.faithfulness import FaithfulnessConfig
from fastrl.config.labels import LabelConfig
from fastrl.config.transfer import TransferConfig
from fastrl.config.uplift import UpliftConfig
from fastrl.kernels.config import AdvantageBaseline, AdvantageScale, LossConfig

WITHOUT_GOLD = ("majority", "self_certainty", "entropy", "random", "label")
"""Proxy rewards; the accuracy against the gold answer is logged next to them."""
OVERLONG = "soft_overlong_punishment"
BUILT_IN_REWARDS = ("answer", "format", OVERLONG, "transfer", "uplift", "rubric", *WITHOUT_GOLD)
"""Names of built-in rewards; any other name in reward.functions is a dotted path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """Sampling of rollouts in each step."""

    num_prompts: int = 16
    """Prompts per step."""
    group_size: int = 8
    """Completions per prompt; advantages compare them with each other. >= 2."""
    num_voters: int = 0
    """Extra completions per prompt that vote in the majority reward and are not trained on. The paper uses
    group_size of them."""
    max_new_tokens: int = 512
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """Sampling temperature, > 0."""
    top_p: float = 1.0
    """Nucleus sampling, in (0, 1]; 1: off."""
    top_k: int = 0
    """Sample from the k most likely tokens; 0: off."""
    stop: tuple[str, ...] = ()
    """Stop strings, in addition to the tokenizer's end token."""
    dynamic_sampling: bool = False
    """Drop groups whose rewards are all equal and sample further prompts in their place (DAPO)."""
    max_refills: int = 4
    """Extra batches of prompts that dynamic sampling may draw; then the step uses the groups it has."""
    max_staleness: Literal[0, 1] = 0
    """1: sample and reward the next batch in a thread during the update, with the weights from before it. Use
    it if the engines have their own devices. loss.correction corrects for it, and drift/... then includes the
    update. The first batch after a periodic checkpoint uses the checkpoint's weights, so a resumed run is
    bitwise equal; after a stop by a signal or an alarm it is not. 0: on-policy sampling."""

    def __post_init__(self) -> None:
        check_positive("rollout", self, "num_prompts", "max_new_tokens", "temperature")
        check_at_least("rollout", self, 2, "group_size")
        check_at_least("rollout", self, 0, "max_refills", "top_k", "num_voters")
        if not 0 < self.top_p <= 1:
            refuse("rollout", "top_p", "a number in (0, 1]", self.top_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Reward functions, and how their sum becomes an advantage."""

    functions: tuple[str, ...] = ("answer", "format")
    """answer, format, soft_overlong_punishment, transfer, uplift, rubric, majority, self_certainty, entropy,
    random, label, or the dotted path of a function with TRL's signature."""
    weights: tuple[float, ...] = (1.0, 0.1)
    """One weight per function. A reward with weight 0 is only logged."""
    normalize_each: bool = False
    """Compute an advantage per reward and take their weighted sum, instead of one of the summed reward."""
    scale: AdvantageScale = "std"
    """Divide advantages by the group's std, by the batch's std, or not at all."""
    baseline: AdvantageBaseline = "mean"
    """Baseline that is subtracted from a rollout's reward: the group's mean, or the mean of its other
    rollouts (leave_one_out)."""
    soft_punish_cache: int | None = None
    """Tokens before rollout.max_new_tokens over which soft_overlong_punishment falls from 0 to -1. null: a
    fifth of rollout.max_new_tokens, as DAPO's 4,096 of 20,480."""

    def __post_init__(self) -> None:
        if not self.functions:
            refuse("reward", "functions", "at least one", self.functions)
        if len(self.functions) != len(self.weights):
            refuse("reward", "weights", f"{len(self.functions)} numbers, one a function", self.weights)
        if len(set(self.functions)) != len(self.functions):
            refuse("reward", "functions", "names without repetition", self.functions)
        if self.soft_punish_cache is not None:
            check_positive("reward", self, "soft_punish_cache")
            if OVERLONG not in self.functions:
                got = self.soft_punish_cache
                refuse("reward", "soft_punish_cache", f"null, since reward.functions has no {OVERLONG}", got)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Evaluation before, during and after training, and by `fastrl eval`."""

    path: str | None = None
    """File of held-out problems. null: no evaluation during training."""
    every: int = 0
    """Steps between evaluations; 0: only before and after training."""
    limit: int | None = None
    """Use only the first `limit` problems."""
    num_samples: int = 4
    """Completions per problem."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1: off."""
    top_k: int = 0
    """Sample from the k most likely tokens; 0: off."""
    faithfulness: FaithfulnessConfig = field(default_factory=FaithfulnessConfig)

    def __post_init__(self) -> None:
        check_at_least("eval", self, 0, "every", "temperature", "top_k")
        check_positive("eval", self, "num_samples")
        if self.faithfulness.enabled and self.path is None and self.faithfulness.path is None:
            refuse("faithfulness", "path", "a file of problems, since eval.path is null", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RlConfig:
    """RL with verifiable or model-based rewards (GRPO and its variants)."""

    stage: Literal["rl"] = "rl"
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    uplift: UpliftConfig = field(default_factory=UpliftConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)

    def __post_init__(self) -> None:
        take_schedule(self, "constant")
        if self.loss.loss_type == "rloo" and self.reward.baseline != "leave_one_out":
            refuse("reward", "baseline", "leave_one_out, since loss.loss_type is rloo", self.reward.baseline)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
        if self.run.keep_best and self.eval.path is None:
            refuse("run", "keep_best", "'' if eval.path is null", self.run.keep_best)
        longest = self.rollout.max_new_tokens
        if self.overlong_tokens > longest:
            expected = f"at most rollout.max_new_tokens {longest}"
            refuse("reward", "soft_punish_cache", expected, self.overlong_tokens)
        policy_rewards = {"self_certainty", "entropy"} & set(self.reward.functions)
        if self.rollout.max_staleness:
            self._check_staleness(policy_rewards)
        if self.train.shard and policy_rewards:
            # a sharded forward pass needs all ranks, but these rewards run one per prompt of the rank
            refuse("train", "shard", f"false with the reward {min(policy_rewards)}", True)

    def _check_staleness(self, policy_rewards: set[str]) -> None:
        """Raise ValueError if sampling ahead would share weights or memory with the update.

        Args:
            policy_rewards: rewards that run the policy itself.
        """
        why = "since rollout.max_staleness is 1"
        if self.run.save_every == 1:
            refuse("run", "save_every", f"0 or > 1, {why}, and not across a checkpoint", 1)
        if self.loss.correction == "none":
            refuse("loss", "correction", f"one that corrects, {why}", self.loss.correction)
        if policy_rewards:
            first = min(policy_rewards)
            refuse("rollout", "max_staleness", f"0 with the reward {first}, which runs the policy", 1)
        engines = {"engine": self.engine}
        engines |= {"transfer.engine": self.transfer.engine} if self.uses_transfer else {}
        engines |= {"uplift.executor.engine": self.uplift.executor.engine} if self.uses_uplift else {}
        for section, engine in engines.items():
            if engine.sleep:
                refuse(section, "sleep", f"false, {why}", True)

    @property
    def weighted_rewards(self) -> dict[str, float]:
        """Weights by reward; with a proxy reward also `answer`, with weight 0, to log the true accuracy."""
        named = dict(zip(self.reward.functions, self.reward.weights, strict=True))
        proxies = not named.keys().isdisjoint(WITHOUT_GOLD)
        return {**named, "answer": named.get("answer", 0.0)} if proxies else named

    @property
    def overlong_tokens(self) -> int:
        """reward.soft_punish_cache, or its default."""
        given = self.reward.soft_punish_cache
        return max(1, self.rollout.max_new_tokens // 5) if given is None else given

    @property
    def uses_transfer(self) -> bool:
        return "transfer" in self.reward.functions

    @property
    def uses_uplift(self) -> bool:
        return "uplift" in self.reward.functions

    @property
    def uses_rubric(self) -> bool:
        """True if a reward model is loaded."""
        needed = self.uses_uplift and self.uplift.needs_quality
        return needed or "rubric" in self.reward.functions


def derived(config: RlConfig) -> dict[str, int]:
    """Return numbers that follow from the configuration, such as rollouts per step, for --dry-run."""
    rollouts = config.rollout.num_prompts * config.rollout.group_size
    numbers = {"rollouts_per_step": rollouts}
    if config.rollout.num_voters:
        numbers["voters_per_step"] = config.rollout.num_prompts * config.rollout.num_voters
    if config.uses_transfer:
        numbers["continuations_per_step"] = (
            rollouts * config.transfer.num_cuts * config.transfer.num_continuations
        )
    if config.uses_uplift:
        uplift = config.uplift
        baselines = config.rollout.num_prompts if uplift.baseline == "cached" else rollouts
        numbers["executor_runs_with_a_trace_per_step"] = rollouts * (1 + uplift.repeats)
        numbers["executor_runs_without_per_step_at_most"] = baselines * uplift.baseline_repeats
    numbers["optimizer_steps"] = (
        config.train.num_steps * config.train.epochs_per_batch * config.train.updates_per_epoch
    )
    return numbers
