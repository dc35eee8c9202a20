"""The policy: a Hugging Face decoder in training, with packed batches, its LM head and its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import BackboneConfig, CheckpointConfig, ModelConfig
from fastrl.ops import LogprobOutput, linear_logprob
from fastrl.policy.attention import FLASH, FLEX, SDPA, attention_kwargs
from fastrl.policy.head import LmHead, lm_head_of
from fastrl.policy.lora import (
    FOLDER,
    adapter_weights,
    add_adapters,
    load_adapters,
    merged_parameters,
    merged_weights,
    save_adapters,
    switched_off,
)
from fastrl.policy.packing import PackedBatch, microbatches, pack, shared_microbatches
from fastrl.policy.prefix_attention import PREFIX
from fastrl.policy.shard import BODY, Sharding, gather, max_over_ranks, shard, sharded_modules
from fastrl.policy.shard_load import fill, outline, stand_ins
from fastrl.policy.source import model_source
from fastrl.types import TrainSequence

WEIGHTS = "model.safetensors"
SHAREABLE_LAYERS = {"full_attention", "sliding_attention"}
EMPTY_SEQUENCE = TrainSequence([0, 0], [False, False])
"""Content of an empty micro-batch, which a rank computes while others still have micro-batches."""


class Policy:
    """The model that is trained, with float32 master weights and compute in `dtype`."""

    def __init__(
        self, model: Any, tokenizer: Any, dtype: torch.dtype, attention: str, share_prefixes: bool = False,
        adapted: bool = False, device: torch.device | None = None, sharding: Sharding | None = None,
    ) -> None:  # fmt: skip
        """Wrap a model and its tokenizer.

        Args:
            adapted: the model has adapters, and only they are trained.
            device: compute device; None: the device of its weights.
            sharding: how the model is sharded over the ranks; all ranks must then take part in each forward
                pass, gather and save.
        """
        self.model, self.tokenizer, self.dtype, self.attention = model, tokenizer, dtype, attention
        self.adapted, self._without_adapters = adapted, False
        self.share_prefixes = share_prefixes and attention == PREFIX
        self.device: torch.device = device or model.device
        self.sharding = sharding

    @classmethod
    def load(
        cls, config: ModelConfig, device: torch.device, checkpoint: Path | None = None, seed: int = 0,
        sharding: Sharding | None = None,
    ) -> Policy:  # fmt: skip
        """Load the model to train, with adapters if config.lora.rank > 0.

        Args:
            checkpoint: folder that `save` wrote. Its weights replace those of config.path; with adapters,
                only the adapters are read from it. Both are bitwise what was saved.
            seed: seed of the adapters' initial weights.
            sharding: shard the model over the ranks; each rank reads only its own part.
        """
        attention, lora = choose_attention(config, device), config.lora
        source = model_source(config.path if checkpoint is None or lora.rank else str(checkpoint))
        options = {"attn_implementation": attention, "trust_remote_code": config.trust_remote_code}
        whole: Any = partial(
            AutoModelForCausalLM.from_pretrained, source, dtype=torch.float32, use_safetensors=True, **options
        )
        model: Any = outline(source, **options) if sharding else whole()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code)
        check_layers(model, attention)
        without_dropout(model)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if lora.rank:
            with stand_ins(model):
                add_adapters(model, lora, seed)
            if checkpoint is not None:
                load_adapters(model, checkpoint / FOLDER)
        dtype = compute_dtype(config, device)
        if sharding is None:
            model.to(device)
        else:
            shard(model, sharding, device, dtype)
            fill(model, source, sharding.home(device), device, whole)
        model.train()
        adapted = lora.rank > 0
        return cls(model, tokenizer, dtype, attention, config.share_prefixes, adapted, device, sharding)

    @property
    def head(self) -> LmHead:
        """The LM head; in a sharded model gathered from `hidden` until the backward pass or `reshard`."""
        return lm_head_of(self.model)

    def before_training(self) -> Policy:
        """Return the initial model: this one with its adapters disabled, sharing all weights."""
        if not self.adapted:
            raise ValueError("[policy] before_training: expected a policy with adapters, got one without")
        start = copy(self)
        start._without_adapters = True
        return start

    def microbatches(
        self, sequences: Sequence[TrainSequence], budget: int, groups: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Split sequences into micro-batches of at most `budget` tokens; return their indices.

        With share_prefixes shared tokens count once, and sequences of a group stay together. A sharded model
        gets equally many micro-batches on all ranks.

        Args:
            groups: group of each sequence; None: each is its own group.
        """
        if self.share_prefixes:
            groups = range(len(sequences)) if groups is None else groups
            batches = shared_microbatches([sequence.token_ids for sequence in sequences], groups, budget)
        else:
            batches = microbatches([len(sequence.token_ids) for sequence in sequences], budget)
        return self.add_empty_batches(batches)

    def add_empty_batches(self, batches: list[list[int]]) -> list[list[int]]:
        """Add empty micro-batches, in a sharded model, until all ranks have the same number."""
        missing = max_over_ranks(len(batches)) - len(batches) if self.sharding else 0
        return batches + [[] for _ in range(missing)]

    def pack(self, sequences: Sequence[TrainSequence]) -> PackedBatch:
        """Pack one micro-batch on the policy's device; an empty one has no loss token."""
        return pack(sequences or [EMPTY_SEQUENCE], self.device, self.share_prefixes)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """Return the hidden states that predict loss tokens, [T, D] in the compute dtype."""
        inputs = {
            "input_ids": batch.input_ids.unsqueeze(0),
            "position_ids": batch.position_ids.unsqueeze(0),
            "use_cache": False,
            **attention_kwargs(self.attention, batch),
        }
        with self.autocast(), switched_off(self.model) if self._without_adapters else nullcontext():
            if self.sharding:
                states: Tensor = getattr(self.model, BODY)(**inputs)
            else:
                states = self.model.base_model(**inputs).last_hidden_state
        return states[0].index_select(0, batch.rows).to(self.dtype)

    def reshard(self) -> None:
        """Free a sharded model's gathered weights; call it before the weights change."""
        for module in sharded_modules(self.model) if self.sharding else ():
            module.reshard()

    def set_gradient_sync(self, enabled: bool) -> None:
        """Set whether the next backward pass sums a sharded model's gradients over the ranks."""
        if self.sharding:
            self.model.set_requires_gradient_sync(enabled or self.sharding.gradients)

    @torch.no_grad()
    def score(
        self, batch: PackedBatch, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
    ) -> LogprobOutput:
        """Return log-prob, entropy and self-certainty of loss tokens under this sampling; no gradient."""
        return linear_logprob(
            self.hidden(batch),
            self.head.weight,
            batch.ids,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            **self.head.options(),
        )

    def logprobs(self, batch: PackedBatch, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
        """Return the log-probs of the loss tokens under this sampling, [T] fp32 nats; no gradient."""
        return self.score(batch, temperature, top_k, top_p).logprobs

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the autocast context of a forward pass."""
        if self.dtype == torch.float32 or self.sharding:  # FSDP gathers weights in the compute dtype
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def named_weights(self, changed_only: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield all parameters under their checkpoint names, with adapters merged, tied ones once.

        A sharded model's are gathered one by one on all ranks.

        Args:
            changed_only: only parameters that training changes; without adapters that is all.
        """
        return ((name, gather(tensor, self.device)) for name, tensor in self.named_parts(changed_only))

    def named_parts(self, changed_only: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters of named_weights, with sharded ones still sharded."""
        self.reshard()
        if self.adapted:
            return merged_parameters(self.model, changed_only)
        return ((name, parameter.detach()) for name, parameter in self.model.named_parameters())

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def weight_files(self) -> dict[str, dict[str, Tensor]]:
        """Return {file: {name: tensor}} of the safetensors files that `save` writes; shards stay shards."""
        saved = self.model.state_dict().keys()
        buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in saved}
        return {WEIGHTS: dict(self.named_parts()) | buffers}

    def save_all_but_weights(self, folder: Path, writes: bool) -> None:
        """Write everything that `save` writes except weight_files; in a sharded model all ranks call it.

        Args:
            writes: True on the one rank that writes.
        """
        weights = {name: gather(weight, self.device) for name, weight in adapter_weights(self.model).items()}
        if not writes:
            return
        save_config(self.model, folder)
        if self.model.can_generate():
            self.model.generation_config.save_pretrained(folder)
        if self.adapted:
            save_adapters(self.model, folder / FOLDER, weights)
        self.tokenizer.save_pretrained(folder)

    def save(self, folder: Path) -> None:
        """Write a folder that AutoModelForCausalLM and AutoTokenizer load.

        Adapters are merged into its weights, and also saved in a subfolder.
        """
        if self.adapted:
            self.model.save_pretrained(folder, state_dict=merged_weights(self.model))
            save_adapters(self.model, folder / FOLDER)
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def save_config(model: Any, folder: Path) -> None:
    """Write config.json as save_pretrained does, with the model's class and the dtype of its weights."""
    model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
    model.config.dtype = "float32"
    model.config.save_pretrained(folder)


def check_layers(model: Any, attention: str) -> None:
    """Raise ValueError for prefix attention in a model with other layers, such as recurrent ones."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if attention == PREFIX and not kinds <= SHAREABLE_LAYERS:
        raise ValueError(
            f"[model] attention: prefix takes {' and '.join(sorted(SHAREABLE_LAYERS))} layers, "
            f"got {', '.join(sorted(kinds))}"
        )


def without_dropout(model: nn.Module) -> None:
    """Disable dropout, since the engine samples without it and log-probs must be of the same policy."""
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def compute_dtype(config: CheckpointConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of model.dtype; auto: bfloat16 on a GPU, float32 on a CPU."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def choose_attention(config: BackboneConfig, device: torch.device) -> str:
    """Return the attention implementation of model.attention. Raises ValueError if it can't run here."""
    flash_usable = device.type == "cuda" and find_spec("flash_attn") is not None
    if config.attention == "flash" and not flash_usable:
        raise ValueError(
            "[model] attention: flash needs a GPU and flash-attn (pip install flash-attn); use sdpa"
        )
    if config.attention == "flex" and device.type != "cuda":
        raise ValueError("[model] attention: flex trains on a GPU only; use sdpa")
    if config.attention == "auto" and device.type == "cpu":
        return PREFIX
    if config.attention == "auto":
        return FLASH if flash_usable and compute_dtype(config, device) != torch.float32 else SDPA
    return {"sdpa": SDPA, "flex": FLEX, "flash": FLASH, "prefix": PREFIX}[config.attention]
