"""Configuration: frozen dataclasses, one per owner. The only truth; recipes and flags fill these in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from fastrl.kernels.config import AdvantageBaseline, AdvantageScale, LossConfig

Attention = Literal["auto", "sdpa", "flex", "flash", "prefix"]


def refuse(section: str, name: str, expected: str, got: object) -> None:
    raise ValueError(f"[{section}] {name}: expected {expected}, got {got!r}")


def check_positive(section: str, config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            refuse(section, name, "> 0", getattr(config, name))


def check_at_least(section: str, config: object, minimum: float, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= minimum:
            refuse(section, name, f">= {minimum}", getattr(config, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A Hugging Face checkpoint and how it runs."""

    path: str = ""
    """Folder or hub name of a decoder with its tokenizer."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is bfloat16 on a GPU and float32 on a CPU. Trained weights stay float32."""
    attention: Attention = "auto"
    """Packed attention: auto is prefix on a CPU; on a GPU flash where flash-attn is installed, else sdpa."""
    share_prefixes: bool = True
    """With prefix attention: tokens that sequences of a micro-batch begin with alike (the prompt of a group)
    are computed once. Loss and gradients stay the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Problems: a JSONL, Parquet or CSV file."""

    path: str = ""
    """File to train on."""
    prompt_column: str | None = None
    """None: prompt, question or problem, whichever the file has."""
    solution_column: str | None = None
    """None: solution, answer or ground_truth, whichever the file has. Its values are graded against."""
    system_prompt: str | None = None
    """Put before every question in the chat template."""
    limit: int | None = None
    """Use the first `limit` problems only."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_positive("data", self, "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model generates."""

    kind: Literal["torch", "vllm", "same"] = "torch"
    """torch: the embedded engine, any Hugging Face decoder. vllm: vLLM in this process; it must be installed.
    same: as in the engine section, of transfer.engine alone."""
    max_batch_tokens: int = 65536
    """> 0; tokens of KV cache that one generation batch may hold. More requests wait their turn."""
    keep_prompts: bool = False
    """Keys and values of prompts outlive a call, until weights change: less prefill where prompts come again,
    and what follows may differ in its last bits."""
    device: str = "auto"
    """auto: the run's device. cpu, cuda:1, …: one of its own, the same on every rank."""
    sleep: bool = False
    """The engine gives its memory back while others work: for a policy and a receiver on one GPU."""
    enforce_eager: bool = False
    """vllm on a GPU without CUDA graphs: starts sooner, decodes slower."""

    def __post_init__(self) -> None:
        check_positive("engine", self, "max_batch_tokens")
        if self.kind == "torch" and self.enforce_eager:
            refuse("engine", "enforce_eager", "false, since kind torch has no such choice", True)
        for each in dataclasses.fields(self)[1:]:
            if self.kind == "same" and getattr(self, each.name) != each.default:
                refuse("transfer.engine", "kind", f"torch or vllm, since {each.name} is set", self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverEngineConfig(EngineConfig):
    """How the receiver generates: as the engine section says, unless a kind is named here."""

    kind: Literal["torch", "vllm", "same"] = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """What is sampled in each step."""

    num_prompts: int = 16
    """Prompts a step."""
    group_size: int = 8
    """Completions a prompt; compared with each other. >= 2."""
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

    def __post_init__(self) -> None:
        check_positive("rollout", self, "num_prompts", "max_new_tokens", "temperature")
        check_at_least("rollout", self, 2, "group_size")
        check_at_least("rollout", self, 0, "max_refills", "top_k")
        if not 0 < self.top_p <= 1:
            refuse("rollout", "top_p", "a number in (0, 1]", self.top_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Which rewards, and how they add up."""

    functions: tuple[str, ...] = ("answer", "format")
    """answer, format, transfer, or the dotted path of a function with TRL's reward signature."""
    weights: tuple[float, ...] = (1.0, 0.1)
    """One a function. A reward with weight 0 is measured and logged, and changes nothing."""
    normalize_each: bool = False
    """Every reward becomes an advantage of its own before the weighted sum."""
    scale: AdvantageScale = "std"
    """Advantages are divided by the group's std, the batch's std, or not."""
    baseline: AdvantageBaseline = "mean"
    """Subtracted from a rollout's reward."""
    answer_timeout_s: float = 5.0
    """Grading one answer is stopped after this long and counted apart from "wrong"."""
    answer_workers: int = 2
    """Grading processes."""

    def __post_init__(self) -> None:
        if not self.functions:
            refuse("reward", "functions", "at least one", self.functions)
        if len(self.functions) != len(self.weights):
            refuse("reward", "weights", f"{len(self.functions)} numbers, one a function", self.weights)
        if len(set(self.functions)) != len(self.functions):
            refuse("reward", "functions", "names without repetition", self.functions)
        check_positive("reward", self, "answer_timeout_s", "answer_workers")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """The transfer reward: a frozen receiver continues a cut rollout (RLTR, arXiv 2602.08489)."""

    receiver: ModelConfig = field(default_factory=ModelConfig)
    """The frozen model that reads the prefix. Needed where reward.functions has transfer."""
    engine: ReceiverEngineConfig = field(default_factory=ReceiverEngineConfig)
    num_cuts: int = 1
    """K: prefixes taken of each rollout, each at its own tau ~ U(0, 1]."""
    num_continuations: int = 1
    """N: continuations of each prefix; the reward is the mean over K x N."""
    tau_shared_in_group: bool = False
    """Rollouts of one prompt are cut at the same taus: no rollout is favoured for a lucky long prefix."""
    strip_answer: bool = False
    """A prefix ends before the first answer marker, so that it never holds the answer."""
    mode: Literal["sample", "force", "teacher"] = "sample"
    """sample: the receiver writes on to its end. force: after forcing_text it writes the answer alone.
    teacher: it writes nothing; the reward is its probability of the gold answer after forcing_text."""
    forcing_text: str = "\n\nThe final answer is \\boxed{"
    """Comes after the cut in modes force and teacher."""
    forcing_end: str = "}"
    """Ends the answer in modes force and teacher."""
    answer_tokens: int = 32
    """Longest answer in mode force, in the receiver's tokens."""
    early_stop: bool = False
    """Continuations that can no longer change the order of their group's rewards end. Rewards of rollouts
    whose place is known then are means over fewer continuations; off is exact."""
    temperature: float = 0.7
    top_p: float = 0.95
    slack_tokens: int = 256
    """A continuation may have rollout.max_new_tokens - cut + this many tokens."""

    def __post_init__(self) -> None:
        check_positive("transfer", self, "num_cuts", "num_continuations", "answer_tokens")
        if self.mode != "sample" and not self.forcing_end:
            refuse("transfer", "forcing_end", "at least one character", self.forcing_end)
        if self.early_stop and self.mode == "teacher":
            refuse("transfer", "early_stop", "false, since mode teacher samples nothing", True)
        check_at_least("transfer", self, 0, "temperature", "slack_tokens")
        if not 0 < self.top_p <= 1:
            refuse("transfer", "top_p", "a number in (0, 1]", self.top_p)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The optimiser and how a step is cut up."""

    num_steps: int = 100
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    """The learning rate rises linearly over these steps, then stays."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """> 0; gradients are scaled down to this norm."""
    epochs_per_batch: int = 1
    """Passes over each batch of rollouts."""
    updates_per_epoch: int = 1
    """Optimiser steps in each pass; more than one in all is off-policy (old_logprobs are computed)."""
    tokens_per_microbatch: int = 16384
    """Prompt and completion tokens that go through the model at once; the only knob for memory."""

    def __post_init__(self) -> None:
        check_at_least("train", self, 0, "num_steps", "warmup_steps", "weight_decay")
        check_positive(
            "train", self, "learning_rate", "max_grad_norm", "epochs_per_batch", "updates_per_epoch",
            "tokens_per_microbatch",
        )  # fmt: skip


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

    def __post_init__(self) -> None:
        check_at_least("eval", self, 0, "every", "temperature")
        check_positive("eval", self, "num_samples")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The run folder and what goes into it."""

    dir: str = ""
    """Everything about the run is written here. A folder with a run of the same configuration goes on."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save_every: int = 50
    """Steps between checkpoints; the last step is always saved. 0: only the last."""
    keep_last: int = 2
    """Checkpoints kept."""
    log_completions_every: int = 10
    """Steps between logged batches of completions; 0: never."""
    report_to: tuple[Literal["trackio", "wandb", "tensorboard"], ...] = ()

    def __post_init__(self) -> None:
        check_at_least("run", self, 0, "save_every", "log_completions_every")
        check_positive("run", self, "keep_last")


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
    transfer: TransferConfig = field(default_factory=TransferConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        if self.loss.loss_type == "rloo" and self.reward.baseline != "leave_one_out":
            refuse("reward", "baseline", "leave_one_out, since loss.loss_type is rloo", self.reward.baseline)
        if self.engine.kind == "same":
            refuse("engine", "kind", "torch or vllm", self.engine.kind)

    @property
    def uses_transfer(self) -> bool:
        return "transfer" in self.reward.functions

    @property
    def receiver_engine(self) -> EngineConfig:
        return self.engine if self.transfer.engine.kind == "same" else self.transfer.engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Supervised fine-tuning on conversations: JSONL with `messages`, or `prompt` and `completion`."""

    stage: Literal["sft"] = "sft"
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(learning_rate=1e-5))
    batch_size: int = 64
    """Conversations a step."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate after warm-up; cosine falls to zero at the last step."""

    def __post_init__(self) -> None:
        check_positive("sft", self, "batch_size")


Config = RlConfig | SftConfig
STAGES: dict[str, type[RlConfig] | type[SftConfig]] = {"rl": RlConfig, "sft": SftConfig}


def derived(config: RlConfig) -> dict[str, int]:
    """The numbers that follow from the configuration, for --dry-run."""
    rollouts = config.rollout.num_prompts * config.rollout.group_size
    numbers = {"rollouts_per_step": rollouts}
    if config.uses_transfer:
        numbers["continuations_per_step"] = (
            rollouts * config.transfer.num_cuts * config.transfer.num_continuations
        )
    numbers["optimizer_steps"] = (
        config.train.num_steps * config.train.epochs_per_batch * config.train.updates_per_epoch
    )
    return numbers


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Dotted names of fields whose values differ between two configurations."""
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b) and type(a) is type(b):
        found: list[str] = []
        for item in dataclasses.fields(a):
            found += differences(
                getattr(a, item.name), getattr(b, item.name), f"{path}.{item.name}".lstrip(".")
            )
        return found
    return [] if a == b else [path]
