"""What every stage has: the run folder, the model, the data, the optimiser; and how values are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NoReturn

Attention = Literal["auto", "sdpa", "flex", "flash", "prefix"]


def refuse(section: str, name: str, expected: str, got: object) -> NoReturn:
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
class AdapterConfig:
    """Low-rank adapters (LoRA, needs peft): W + alpha / rank * B A is trained in A and B alone, without
    dropout. Whatever is saved or sampled from has them merged."""

    rank: int = 0
    """0: no adapters, all weights are trained."""
    alpha: float = 32.0
    target_modules: tuple[str, ...] = ()
    """Names of linear layers, such as q_proj. None named: all of the decoder's. The head has none."""

    def __post_init__(self) -> None:
        check_at_least("lora", self, 0, "rank")
        check_positive("lora", self, "alpha")


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
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    """Of the model that a stage of rl, sft or cpt trains; a frozen one has none."""


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
    prompt_template: str | None = None
    """What the user says, with {question} where the question stands; null: the question alone."""
    limit: int | None = None
    """Use the first `limit` problems only."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_positive("data", self, "limit")
        if self.prompt_template is not None and "{question}" not in self.prompt_template:
            refuse("data", "prompt_template", "text with {question}", self.prompt_template)


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
