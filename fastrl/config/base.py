"""What every stage has: the run folder, the model, the data, the optimiser; and how values are refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol

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
    keep_best: str = ""
    """A metric of the evaluation, such as eval/avg@4: the checkpoint where it is highest is kept as well."""
    async_save: bool = False
    """Training goes on from a copy in host memory while a checkpoint is written."""
    log_completions_every: int = 10
    """Steps between logged batches of completions; 0: never."""
    report_to: tuple[Literal["trackio", "wandb", "tensorboard"], ...] = ()
    hang_timeout_s: float = 7200.0
    """A phase of a step that takes longer ends the process with code 124 and the stacks of all its threads.
    0: never."""
    deterministic: bool = False
    """The same bits again, on a GPU too and whatever train.tokens_per_microbatch: torch's deterministic
    algorithms alone, and every sequence is a micro-batch of its own. Slower. It holds on one machine, with as
    many ranks and threads; what vLLM samples is vLLM's matter."""

    def __post_init__(self) -> None:
        check_at_least("run", self, 0, "save_every", "log_completions_every", "hang_timeout_s")
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
class CheckpointConfig:
    """A Hugging Face checkpoint. A model that is only asked needs no more options than these."""

    path: str = ""
    """Folder or hub name of a decoder with its tokenizer, or a .gguf file, which is converted once."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; auto is bfloat16 on a GPU and float32 on a CPU."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""


class TemplateOptions(Protocol):
    """Which chat template writes a model's prompts, and with what variables."""

    @property
    def chat_template(self) -> str: ...

    @property
    def template_kwargs(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedConfig(CheckpointConfig):
    """A frozen model that gets chat prompts of its own, and how they are written."""

    chat_template: str = "auto"
    """As data.chat_template, for this model."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """As data.template_kwargs, for this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig(CheckpointConfig):
    """A checkpoint that is trained, and how it computes packed batches. Trained weights stay float32."""

    attention: Attention = "auto"
    """Packed attention: auto is prefix on a CPU; on a GPU flash where flash-attn is installed, else sdpa."""
    share_prefixes: bool = True
    """With prefix attention: tokens that sequences of a micro-batch begin with alike (the prompt of a group)
    are computed once. Loss and gradients stay the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, gradients stay the same: of every layer its input alone is
    kept, and one layer's inside at a time. About a third more time. A micro-batch must still fit so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(BackboneConfig):
    """The model that is trained: all of its weights, or adapters. Trained weights stay float32."""

    lora: AdapterConfig = field(default_factory=AdapterConfig)


def check_only_asked(section: str, name: str, model: CheckpointConfig) -> None:
    """Refuse the options of training for a model that is only asked."""
    if isinstance(model, BackboneConfig):
        refuse(section, name, "a CheckpointConfig, since this model is only asked", type(model).__name__)


def take_prompted(section: str, config: object, name: str) -> None:
    """As check_only_asked, for a field that is a PromptedConfig; a plain CheckpointConfig becomes one."""
    model: CheckpointConfig = getattr(config, name)
    check_only_asked(section, name, model)
    if not isinstance(model, PromptedConfig):
        own = PromptedConfig(path=model.path, dtype=model.dtype, trust_remote_code=model.trust_remote_code)
        object.__setattr__(config, name, own)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Problems: a JSONL, Parquet or CSV file."""

    path: str = ""
    """File to train on; hub:OWNER/NAME/FILE is one of a data set on the Hugging Face hub."""
    prompt_column: str | None = None
    """None: as layout says; in the general rule prompt, question or problem, whichever the file has."""
    solution_column: str | None = None
    """None: solution, answer or ground_truth, whichever the file has. Its values are graded against."""
    system_prompt: str | None = None
    """Put before every question in the chat template."""
    merge_system: bool = False
    """Put the system's text at the beginning of the user's first turn: for chat templates that refuse a
    system role, as Gemma's."""
    prompt_template: str | None = None
    """What the user says, with {question} where the question stands; null: the question alone."""
    chat_template: str = "auto"
    """auto: the tokenizer's own. none: the text as it is, for base models. Or a .jinja file, or a model
    folder, whose tokenizer's template is taken. It is saved with the model."""
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, such as enable_thinking: false; on the command line as JSON. One that
    the template never reads is an error. Saved with the template, as its defaults."""
    limit: int | None = None
    """Use the first `limit` rows only."""
    layout: str = "auto"
    """auto: as the columns tell. Or a data set's: gsm8k, math, gpqa, mbpp, apps ...; general: none's."""
    option_seed: int = 0
    """Orders the options of questions that have some (GPQA, SuperGPQA)."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that can't be read, or has no question or gold answer: an error, or left out and counted."""

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
    """Prompt and completion tokens that go through the model at once; the first knob for memory."""
    shard: bool = False
    """Under torchrun every rank holds a part of the policy, its gradients and moments (FSDP2), and of a
    frozen reference. false: each holds them whole."""
    shard_gradients: bool = False
    """With shard: gradients are summed over the ranks after every micro-batch, not after the last alone. No
    rank holds whole ones then, 4 bytes a parameter, and more is sent."""
    offload: bool = False
    """With shard: weights, gradients and moments that are not in use wait in host memory, a rank's part of 16
    bytes a parameter, and the optimiser steps there. Activations stay: those are for
    model.gradient_checkpointing."""
    max_bad_steps: int = 0
    """Optimiser steps in a row whose gradient may be NaN or infinite: they are left out, counted as
    bad_steps, and one more ends training, as do more than a tenth of the last hundred. 0: the first one
    ends it."""
    spike_factor: float | None = None
    """> 1; a gradient whose norm is more than so many times the median of the last ones is as bad. null: none
    is."""

    def __post_init__(self) -> None:
        check_at_least("train", self, 0, "num_steps", "warmup_steps", "weight_decay", "max_bad_steps")
        if self.spike_factor is not None and not self.spike_factor > 1:
            refuse("train", "spike_factor", "a number > 1 or null", self.spike_factor)
        check_positive(
            "train", self, "learning_rate", "max_grad_norm", "epochs_per_batch", "updates_per_epoch",
            "tokens_per_microbatch",
        )  # fmt: skip
        for name in ("shard_gradients", "offload"):
            if getattr(self, name) and not self.shard:
                refuse("train", name, "false without train.shard", True)


def check_no_template(section: str, data: DataConfig) -> None:
    """Refuse options of chat templates in a stage that writes no prompts of data's rows for its model."""
    if data.chat_template != "auto":
        refuse("data", "chat_template", f"auto, since stage {section} does not use it", data.chat_template)
    if data.template_kwargs:
        refuse("data", "template_kwargs", f"none, since stage {section} uses none", data.template_kwargs)


class Trained(Protocol):
    """A stage that trains."""

    @property
    def run(self) -> RunConfig: ...

    @property
    def train(self) -> TrainConfig: ...


def microbatch_tokens(config: Trained) -> int:
    """train.tokens_per_microbatch; 1 with run.deterministic: none is split, so each sequence goes alone."""
    return 1 if config.run.deterministic else config.train.tokens_per_microbatch
