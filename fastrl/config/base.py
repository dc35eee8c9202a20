"""Options that stages share: run folder, model, data, optimiser; and the checks that refuse a bad value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, Protocol

Attention = Literal["auto", "sdpa", "flex", "flash", "prefix"]


def refuse(section: str, name: str, expected: str, got: object) -> NoReturn:
    """Raise the ValueError of a bad option: `[section] name: expected ..., got ...`."""
    raise ValueError(f"[{section}] {name}: expected {expected}, got {got!r}")


def check_positive(section: str, config: object, *names: str) -> None:
    """Raise ValueError unless every named option is > 0."""
    for name in names:
        if not getattr(config, name) > 0:
            refuse(section, name, "> 0", getattr(config, name))


def check_at_least(section: str, config: object, minimum: float, *names: str) -> None:
    """Raise ValueError unless every named option is >= minimum."""
    for name in names:
        if not getattr(config, name) >= minimum:
            refuse(section, name, f">= {minimum}", getattr(config, name))


def check_share(section: str, config: object, name: str) -> None:
    """Raise ValueError unless the option is in [0, 1]."""
    if not 0 <= getattr(config, name) <= 1:
        refuse(section, name, "a number in [0, 1]", getattr(config, name))


def check_pattern(section: str, name: str, pattern: str) -> None:
    """Raise ValueError unless the pattern is a regular expression, and not empty."""
    try:
        re.compile(pattern)
    except re.error as error:
        refuse(section, name, f"a regular expression ({error})", pattern)
    if not pattern:
        refuse(section, name, "a regular expression that is not empty", pattern)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The run folder: checkpoints, logs, device and seed."""

    dir: str = ""
    """Folder of the run. If it holds a run of the same configuration, that run is resumed."""
    seed: int = 0
    """Seed of every random choice in the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the policy; auto: cuda if there is a GPU."""
    save_every: int = 50
    """Steps between checkpoints; the last step is always saved. 0: only the last step."""
    keep_last: int = 2
    """Number of recent checkpoints to keep; 0: all."""
    keep_best: str = ""
    """Evaluation metric, such as eval/avg@4; the checkpoint with its highest value is kept too."""
    async_save: bool = False
    """Write checkpoints in a background thread, from a copy in host memory, while training continues."""
    log_completions_every: int = 10
    """Steps between logged batches of completions; 0: never."""
    report_to: tuple[Literal["trackio", "wandb", "tensorboard"], ...] = ()
    """Trackers that receive the metrics."""
    hang_timeout_s: float = 7200.0
    """Seconds that one phase of a step may take. After that the process prints the stacks of all threads and
    exits with code 124. 0: no limit."""
    deterministic: bool = False
    """Reproduce a run bit for bit, on a GPU too and for any train.tokens_per_microbatch: deterministic torch
    algorithms, one sequence per micro-batch. Slower. Holds on one machine with the same number of ranks and
    threads; sampling by vLLM is not covered."""

    def __post_init__(self) -> None:
        check_at_least("run", self, 0, "save_every", "keep_last", "log_completions_every", "hang_timeout_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """LoRA adapters (needs peft): W + alpha / rank * B A, of which only A and B are trained, without dropout.
    Saved checkpoints and the engine's weights have the adapters merged."""

    rank: int = 0
    """Rank of A and B. 0: no adapters, full fine-tuning."""
    alpha: float = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Linear layers with adapters, such as q_proj. Empty: every linear layer of the decoder. The LM head
    never has one."""

    def __post_init__(self) -> None:
        check_at_least("lora", self, 0, "rank")
        check_positive("lora", self, "alpha")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """A Hugging Face checkpoint; all the options of a frozen model."""

    path: str = ""
    """Folder or hub name of a decoder with its tokenizer, or a .gguf file, which is converted once."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype; auto: bfloat16 on a GPU, float32 on a CPU."""
    trust_remote_code: bool = False
    """Run the model code that comes with the checkpoint."""


class TemplateOptions(Protocol):
    """Options of a model's chat template: the template and its variables."""

    @property
    def chat_template(self) -> str: ...

    @property
    def chat_template_kwargs(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedConfig(CheckpointConfig):
    """A frozen model with chat prompts of its own, and the options of its chat template."""

    chat_template: str = "auto"
    """The same as data.chat_template, for this model."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """The same as data.chat_template_kwargs, for this model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneConfig(CheckpointConfig):
    """A checkpoint to train, with the options of its forward pass. Master weights are float32."""

    attention: Attention = "auto"
    """Attention over packed sequences. auto: prefix on a CPU; on a GPU flash if flash-attn is installed, else
    sdpa."""
    share_prefixes: bool = True
    """With attention prefix: compute the common prefix of a micro-batch's sequences (a group's prompt) once.
    Loss and gradients do not change. Other attentions share nothing, and a warning says so."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which saves memory for about a third more time. Only each
    layer's input is kept; gradients do not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(BackboneConfig):
    """The model to train: all weights, or LoRA adapters. Master weights are float32."""

    lora: AdapterConfig = field(default_factory=AdapterConfig)


def check_frozen(section: str, name: str, model: CheckpointConfig) -> None:
    """Raise ValueError if a frozen model has training options."""
    if isinstance(model, BackboneConfig):
        refuse(section, name, "a CheckpointConfig, since this model is frozen", type(model).__name__)


def take_prompted(section: str, config: object, name: str) -> None:
    """Check a field with check_frozen, and turn a plain CheckpointConfig into a PromptedConfig."""
    model: CheckpointConfig = getattr(config, name)
    check_frozen(section, name, model)
    if not isinstance(model, PromptedConfig):
        own = PromptedConfig(path=model.path, dtype=model.dtype, trust_remote_code=model.trust_remote_code)
        object.__setattr__(config, name, own)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Problems to train on: the file, its columns, and the prompts made of them."""

    path: str = ""
    """JSONL, Parquet or CSV file to train on; hub:OWNER/NAME/FILE is a file of a data set on the Hugging Face
    hub."""
    prompt_column: str | None = None
    """Column of the question; a dot descends into a dict. null: as layout says; with layout general the first
    of prompt, question, problem."""
    solution_column: str | None = None
    """Column of the gold answer, against which answers are graded. null: as layout says; with layout general
    the first of answer, final_answer, ground_truth, reward_model.ground_truth, solution. In files of the
    stages subset and hard_set: gold, the answer that these graded against."""
    system_prompt: str | None = None
    """System prompt of every question, instead of the file's own; null: the file's, if it has one."""
    merge_system: bool = False
    """Put the system prompt at the beginning of the first user turn, for chat templates without a system
    role, such as Gemma's."""
    prompt_template: str | None = None
    """Text of the user message, with {question} for the question; null: only the question."""
    chat_template: str = "auto"
    """Chat template. auto: the tokenizer's own. none: no template, plain text, for base models. Or a .jinja
    file, or a model folder, whose tokenizer's template is used. It is saved with the model."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Variables of the chat template, such as enable_thinking: false; JSON on the command line. A variable
    that the template never reads is an error. Saved with the template, as its defaults."""
    limit: int | None = None
    """Use only the first `limit` rows; null: all."""
    layout: str = "auto"
    """Layout of the file. auto: the first known layout whose columns the file has, else general. Or a known
    one: gsm8k, math, gpqa, mbpp, apps ... general: find the columns by common names."""
    option_seed: int = 0
    """Seed that shuffles the options of multiple-choice questions (GPQA, SuperGPQA)."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that can't be read, or lacks a question or gold answer. error: stop. skip: leave it out, and warn
    with the number of such rows."""

    def __post_init__(self) -> None:
        if self.limit is not None:
            check_positive("data", self, "limit")
        if self.prompt_template is not None and "{question}" not in self.prompt_template:
            refuse("data", "prompt_template", "text with {question}", self.prompt_template)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The optimiser (AdamW), its learning rate, micro-batches and sharding."""

    num_steps: int = 100
    """Training steps."""
    optim: Literal["adamw_torch_fused", "adamw_torch_8bit"] = "adamw_torch_fused"
    """AdamW with float32 moments in one fused kernel, or torchao's with moments of 8 bits: about 2 bytes per
    parameter instead of 8 (needs torchao; not with shard)."""
    learning_rate: float = 1e-6
    """Peak learning rate."""
    lr_scheduler_type: Literal["auto", "constant", "linear", "cosine"] = "auto"
    """Learning rate after warm-up: constant, or falling until num_steps, linearly or as half a cosine. auto:
    cosine in cpt, constant in the other stages."""
    min_lr_rate: float = 0.0
    """Learning rate at the end of the fall, as a fraction of the peak."""
    warmup_steps: int = 0
    """Steps of linear warm-up of the learning rate."""
    adam_beta1: float = 0.9
    """AdamW's decay of the gradient's mean per optimiser step, in [0, 1)."""
    adam_beta2: float = 0.999
    """AdamW's decay of the squared gradient's mean, in [0, 1)."""
    adam_epsilon: float = 1e-8
    """> 0; added to the root of the squared gradient's mean."""
    weight_decay: float = 0.0
    """Weight decay of AdamW. Weights with one dimension, norms and biases, get none."""
    no_decay: tuple[str, ...] = ()
    """Regular expressions. A weight whose name one of them finds gets no weight decay, such as embed_tokens;
    each must find one."""
    max_grad_norm: float = 1.0
    """> 0; gradients are clipped to this global norm."""
    epochs_per_batch: int = 1
    """Passes over each batch of rollouts."""
    updates_per_epoch: int = 1
    """Optimiser steps per pass. If a batch gets more than one update, old_logprobs are computed for it."""
    tokens_per_microbatch: int = 16384
    """Prompt and completion tokens per forward pass. Lower it first when memory runs out."""
    shard: bool = False
    """Under torchrun, shard the policy's weights, gradients and optimiser moments, and a frozen reference,
    over the ranks (FSDP2). false: every rank holds them whole."""
    shard_gradients: bool = False
    """With shard: reduce-scatter gradients after every micro-batch, not only after the last. Saves each rank
    4 bytes per parameter for more communication."""
    offload: bool = False
    """With shard: keep a rank's weights, gradients and moments (16 bytes per parameter of its shard) in host
    memory and run the optimiser there. Activations stay on the device; see model.gradient_checkpointing.
    Refused on one rank, which has no shards."""
    max_bad_steps: int = 0
    """Consecutive optimiser steps with a NaN or infinite gradient that are skipped and counted as bad_steps.
    One more ends training, as does more than a tenth of the last hundred steps. 0: the first ends it."""
    spike_factor: float | None = None
    """> 1; a gradient norm above this factor times the median of recent norms also counts as a bad step.
    null: off."""

    def __post_init__(self) -> None:
        check_at_least("train", self, 0, "num_steps", "warmup_steps", "weight_decay", "max_bad_steps")
        check_share("train", self, "min_lr_rate")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                refuse("train", name, "a number in [0, 1)", getattr(self, name))
        for pattern in self.no_decay:
            check_pattern("train", "no_decay", pattern)
        if self.spike_factor is not None and not self.spike_factor > 1:
            refuse("train", "spike_factor", "a number > 1 or null", self.spike_factor)
        check_positive(
            "train", self, "learning_rate", "adam_epsilon", "max_grad_norm", "epochs_per_batch",
            "updates_per_epoch", "tokens_per_microbatch",
        )  # fmt: skip
        if self.shard and self.optim == "adamw_torch_8bit":
            # the blocks that share a scale would depend on the number of ranks, and so would checkpoints
            refuse("train", "optim", "adamw_torch_fused with train.shard", self.optim)
        for name in ("shard_gradients", "offload"):
            if getattr(self, name) and not self.shard:
                refuse("train", name, "false without train.shard", True)


def take_schedule(config: Trained, schedule: Literal["constant", "cosine"]) -> None:
    """Set the schedule of a stage whose train.lr_scheduler_type is auto."""
    if config.train.lr_scheduler_type == "auto":
        object.__setattr__(config, "train", replace(config.train, lr_scheduler_type=schedule))


def check_no_template(section: str, data: DataConfig) -> None:
    """Refuse options of chat templates in a stage that writes no prompts of data's rows for its model."""
    if data.chat_template != "auto":
        refuse("data", "chat_template", f"auto, since stage {section} does not use it", data.chat_template)
    if data.chat_template_kwargs:
        got = data.chat_template_kwargs
        refuse("data", "chat_template_kwargs", f"none, since stage {section} uses none", got)


class Trained(Protocol):
    """The configuration of a stage that trains."""

    @property
    def run(self) -> RunConfig: ...

    @property
    def train(self) -> TrainConfig: ...


def microbatch_tokens(config: Trained) -> int:
    """Return the token budget of a micro-batch; with run.deterministic 1, so that each holds one sequence."""
    return 1 if config.run.deterministic else config.train.tokens_per_microbatch
