"""A Hugging Face decoder that learns: hidden states of packed batches, its head, its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import ModelConfig
from fastrl.ops import LogprobOutput, linear_logprob
from fastrl.policy.attention import FLASH, FLEX, SDPA, attention_kwargs
from fastrl.policy.lora import (
    FOLDER,
    add_adapters,
    load_adapters,
    merged_parameters,
    merged_weights,
    save_adapters,
    switched_off,
)
from fastrl.policy.packing import PackedBatch, TrainSequence, microbatches, pack, shared_microbatches
from fastrl.policy.prefix_attention import PREFIX

SHAREABLE_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Head:
    """logits = softcap * tanh(scale * (hidden weight^T + bias) / softcap); without softcap, the inside."""

    weight: Tensor
    bias: Tensor | None
    logit_scale: float
    softcap: float | None

    def options(self) -> dict[str, Any]:
        return {"bias": self.bias, "logit_scale": self.logit_scale, "softcap": self.softcap}


class Policy:
    """The model that is trained. Weights are float32; it computes in `dtype`."""

    def __init__(
        self, model: Any, tokenizer: Any, dtype: torch.dtype, attention: str, share_prefixes: bool = False,
        adapted: bool = False,
    ) -> None:  # fmt: skip
        """adapted: the model has adapters, and they alone are trained."""
        self.model, self.tokenizer, self.dtype, self.attention = model, tokenizer, dtype, attention
        self.adapted, self._without_adapters = adapted, False
        self.share_prefixes = share_prefixes and attention == PREFIX
        self.device: torch.device = model.device
        self.head = head_of(model)

    @classmethod
    def load(
        cls, config: ModelConfig, device: torch.device, checkpoint: Path | None = None, seed: int = 0
    ) -> Policy:
        """The model to train, with adapters where config.lora has a rank, which the seed draws.

        checkpoint: a folder that save wrote: what it holds takes the place of config.path, or with adapters,
            of theirs alone. To the bit what was saved, both ways.
        """
        attention, lora = choose_attention(config, device), config.lora
        source = config.path if checkpoint is None or lora.rank else str(checkpoint)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.float32,
            attn_implementation=attention,
            trust_remote_code=config.trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code)
        check_layers(model, attention)
        without_dropout(model)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if lora.rank:
            add_adapters(model, lora, seed)
            if checkpoint is not None:
                load_adapters(model, checkpoint / FOLDER)
        model.to(device).train()
        dtype = compute_dtype(config, device)
        return cls(model, tokenizer, dtype, attention, config.share_prefixes, lora.rank > 0)

    def before_training(self) -> Policy:
        """The same model with its adapters switched off: what training started from, without a copy."""
        if not self.adapted:
            raise ValueError("[policy] before_training: expected a policy with adapters, got one without")
        start = copy(self)
        start._without_adapters = True
        return start

    def microbatches(
        self, sequences: Sequence[TrainSequence], budget: int, groups: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Indices grouped so that each micro-batch reads at most `budget` tokens, shared ones counted once; a
        group's sequences stay together where they share. groups: None: each is one of its own."""
        if self.share_prefixes:
            groups = range(len(sequences)) if groups is None else groups
            return shared_microbatches([each.token_ids for each in sequences], groups, budget)
        return microbatches([len(each.token_ids) for each in sequences], budget)

    def pack(self, sequences: Sequence[TrainSequence]) -> PackedBatch:
        """One micro-batch, on the policy's device."""
        return pack(sequences, self.device, self.share_prefixes)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """[T, D] in the compute dtype: the hidden states that predict trained tokens."""
        with self.autocast(), switched_off(self.model) if self._without_adapters else nullcontext():
            out = self.model.base_model(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=batch.position_ids.unsqueeze(0),
                use_cache=False,
                **attention_kwargs(self.attention, batch),
            )
        hidden: Tensor = out.last_hidden_state[0].index_select(0, batch.rows).to(self.dtype)
        return hidden

    @torch.no_grad()
    def score(
        self, batch: PackedBatch, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
    ) -> LogprobOutput:
        """Log-probs, entropy and self-certainty of the trained tokens under this sampling; no gradient."""
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
        """[T] fp32, nats, of the trained tokens under this sampling; no gradient."""
        return self.score(batch, temperature, top_k, top_p).logprobs

    def autocast(self) -> AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def named_weights(self, changed_only: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every parameter under its checkpoint name, adapters merged; tied ones once. changed_only: those
        that training changes, which are all of them unless there are adapters."""
        if self.adapted:
            return merged_parameters(self.model, changed_only)
        return ((name, parameter.detach()) for name, parameter in self.model.named_parameters())

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def save(self, folder: Path) -> None:
        """A folder that AutoModelForCausalLM and AutoTokenizer load. Adapters are merged, and in a folder of
        their own inside."""
        if self.adapted:
            self.model.save_pretrained(folder, state_dict=merged_weights(self.model))
            save_adapters(self.model, folder / FOLDER)
        else:
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def head_of(model: Any) -> Head:
    """The output layer of any Hugging Face decoder, with what its configuration does to the logits."""
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    if layer is None:
        raise ValueError(
            f"[model] path: expected a causal language model, got {type(model).__name__} without head"
        )
    divided_by = getattr(config, "logits_scaling", None) or 1.0
    return Head(
        weight=layer.weight,
        bias=getattr(layer, "bias", None),
        logit_scale=(getattr(config, "logit_scale", None) or 1.0) / divided_by,
        softcap=getattr(config, "final_logit_softcapping", None),
    )


def check_layers(model: Any, attention: str) -> None:
    """Prefix attention speaks for attention layers alone; in a recurrent one sequences of a row would mix."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if attention == PREFIX and not kinds <= SHAREABLE_LAYERS:
        raise ValueError(
            f"[model] attention: prefix takes {' and '.join(sorted(SHAREABLE_LAYERS))} layers, "
            f"got {', '.join(sorted(kinds))}"
        )


def without_dropout(model: nn.Module) -> None:
    """The engine samples without dropout; a trainer with it would learn from another policy's log-probs."""
    module: Any
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def compute_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def choose_attention(config: ModelConfig, device: torch.device) -> str:
    flash_usable = device.type == "cuda" and find_spec("flash_attn") is not None
    if config.attention == "flash" and not flash_usable:
        raise ValueError(
            "[model] attention: flash needs a GPU and flash-attn (pip install fastrl[flash]); use sdpa"
        )
    if config.attention == "flex" and device.type != "cuda":
        raise ValueError("[model] attention: flex trains on a GPU only; use sdpa")
    if config.attention == "auto" and device.type == "cpu":
        return PREFIX
    if config.attention == "auto":
        return FLASH if flash_usable and compute_dtype(config, device) != torch.float32 else SDPA
    return {"sdpa": SDPA, "flex": FLEX, "flash": FLASH, "prefix": PREFIX}[config.attention]
