"""One RL stage: what is sampled, rewarded and evaluated."""

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
)
from fastrl.config.engine import EngineConfig
from fastrl.config.faithfulness import FaithfulnessConfig
from fastrl.config.labels import LabelConfig
from fastrl.config.transfer import TransferConfig
from fastrl.config.uplift import UpliftConfig
from fastrl.kernels.config import AdvantageBaseline, AdvantageScale, LossConfig

WITHOUT_GOLD = ("majority", "self_certainty", "entropy", "random", "label")
"""Rewards that need not agree with the gold answer: it is measured beside them."""
BUILT_IN_REWARDS = ("answer", "format", "transfer", "uplift", "rubric", *WITHOUT_GOLD)
"""Rewards that reward.functions may name; any other name is a dotted path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """What is sampled in each step."""

    num_prompts: int = 16
    """Prompts a step."""
    group_size: int = 8
    """Completions a prompt; compared with each other. >= 2."""
    num_voters: int = 0
    """Further completions a prompt that vote in the majority reward and are not trained on; the paper's share
    is group_size."""
    max_new_tokens: int = 512
    """Longest completion, in tokens."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    """Strings that end a completion, beside the tokenizer's end token."""
    dynamic_sampling: bool = False
    """Groups whose rewards are all equal are dropped and refilled from further prompts."""
    max_refills: int = 4
    """Batches of prompts that dynamic sampling may draw beyond the first; then the step takes what it has."""
    max_staleness: Literal[0, 1] = 0
    """1: the next step's batch is sampled and rewarded, in a thread, while the policy learns from this one's;
    by the weights before that update. Worth it where engines have devices of their own. loss.correction
    weighs it, and drift/... then measures the update, too. The batch after a checkpoint has the checkpoint's
    weights, so that a run goes on from it to the bit; where a signal or an alarm left one, it goes on with
    newer weights than it would have had. 0: every batch is sampled by the weights that learn from it."""

    def __post_init__(self) -> None:
        check_positive("rollout", self, "num_prompts", "max_new_tokens", "temperature")
        check_at_least("rollout", self, 2, "group_size")
        check_at_least("rollout", self, 0, "max_refills", "top_k", "num_voters")
        if not 0 < self.top_p <= 1:
            refuse("rollout", "top_p", "a number in (0, 1]", self.top_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Which rewards, and how they add up."""

    functions: tuple[str, ...] = ("answer", "format")
    """answer, format, transfer, uplift, rubric, majority, self_certainty, entropy, random, label, or the
    dotted path of a function with TRL's signature."""
    weights: tuple[float, ...] = (1.0, 0.1)
    """One a function. A reward with weight 0 is measured and logged, and changes nothing."""
    normalize_each: bool = False
    """Every reward becomes an advantage of its own before the weighted sum."""
    scale: AdvantageScale = "std"
    """Advantages are divided by the group's std, the batch's std, or not."""
    baseline: AdvantageBaseline = "mean"
    """Subtracted from a rollout's reward."""

    def __post_init__(self) -> None:
        if not self.functions:
            refuse("reward", "functions", "at least one", self.functions)
        if len(self.functions) != len(self.weights):
            refuse("reward", "weights", f"{len(self.functions)} numbers, one a function", self.weights)
        if len(set(self.functions)) != len(self.functions):
            refuse("reward", "functions", "names without repetition", self.functions)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Evaluation, by `fastrl eval` and before, during and after training."""

    path: str | None = None
    """File of held-out problems. None: no evaluation during training."""
    every: int = 0
    """Evaluate every so many steps; 0: before and after only."""
    limit: int | None = None
    num_samples: int = 4
    """Completions a problem."""
    temperature: float = 1.0
    top_p: float = 1.0
    faithfulness: FaithfulnessConfig = field(default_factory=FaithfulnessConfig)

    def __post_init__(self) -> None:
        check_at_least("eval", self, 0, "every", "temperature")
        check_positive("eval", self, "num_samples")
        if self.faithfulness.enabled and self.path is None and self.faithfulness.path is None:
            refuse("faithfulness", "path", "a file of problems, since eval.path is null", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RlConfig:
    """One RL stage."""

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
        if self.loss.loss_type == "rloo" and self.reward.baseline != "leave_one_out":
            refuse("reward", "baseline", "leave_one_out, since loss.loss_type is rloo", self.reward.baseline)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)
        if self.run.keep_best and self.eval.path is None:
            refuse("run", "keep_best", "'' where eval.path is null", self.run.keep_best)
        asking = {"self_certainty", "entropy"} & set(self.reward.functions)
        if self.rollout.max_staleness:
            self._check_staleness(asking)
        if self.train.shard and asking:
            # ranks ask the policy as often as they have prompts, and a spread one computes with all or none
            refuse("train", "shard", f"false with the reward {min(asking)}", True)

    def _check_staleness(self, asking: set[str]) -> None:
        """What shares nothing with the update may go on beside it."""
        why = "since rollout.max_staleness is 1"
        if self.run.save_every == 1:
            refuse("run", "save_every", f"0 or > 1, {why}, and not across a checkpoint", 1)
        if self.loss.correction == "none":
            refuse("loss", "correction", f"one that corrects, {why}", self.loss.correction)
        if asking:
            refuse("rollout", "max_staleness", f"0 with the reward {min(asking)}, which asks the policy", 1)
        engines = {"engine": self.engine}
        engines |= {"transfer.engine": self.transfer.engine} if self.uses_transfer else {}
        engines |= {"uplift.executor.engine": self.uplift.executor.engine} if self.uses_uplift else {}
        for section, engine in engines.items():
            if engine.sleep:
                refuse(section, "sleep", f"false, {why}", True)

    @property
    def weighted_rewards(self) -> dict[str, float]:
        """Every reward that is measured, and its weight. Where a proxy stands for the gold answer, that is
        measured too: answer, with weight 0."""
        named = dict(zip(self.reward.functions, self.reward.weights, strict=True))
        proxies = not named.keys().isdisjoint(WITHOUT_GOLD)
        return {**named, "answer": named.get("answer", 0.0)} if proxies else named

    @property
    def uses_transfer(self) -> bool:
        return "transfer" in self.reward.functions

    @property
    def uses_uplift(self) -> bool:
        return "uplift" in self.reward.functions

    @property
    def uses_rubric(self) -> bool:
        """Whether a reward model is loaded."""
        needed = self.uses_uplift and self.uplift.needs_quality
        return needed or "rubric" in self.reward.functions


def derived(config: RlConfig) -> dict[str, int]:
    """The numbers that follow from the configuration, for --dry-run."""
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
        alone = config.rollout.num_prompts if uplift.baseline == "cached" else rollouts
        numbers["executor_runs_with_a_trace_per_step"] = rollouts * (1 + uplift.repeats)
        numbers["executor_runs_without_per_step_at_most"] = alone * uplift.baseline_repeats
    numbers["optimizer_steps"] = (
        config.train.num_steps * config.train.epochs_per_batch * config.train.updates_per_epoch
    )
    return numbers
