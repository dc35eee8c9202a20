"""A Hugging Face decoder on packed tokens, whose attention is the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from fastrl.engine.tree.attention import ATTENTION, AttentionBatch, attending
from fastrl.engine.tree.llama_like import LlamaLike
from fastrl.engine.tree.product import Product
from fastrl.policy.head import LmHead, lm_head_of
from fastrl.policy.source import model_source

_KNOWN_LAYERS = ("full_attention", "sliding_attention")
_STRETCHED_ROPE = ("dynamic", "longrope")


class Decoder:
    """A decoder model: T packed tokens in, logits of some of them out."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        self.model: Any = model
        _refuse_unsupported(self.model)
        self.model.set_attn_implementation(ATTENTION)
        self.model.requires_grad_(False).train(False)
        self.fuse()
        self.pack()
        self.max_model_len = _longest(model, tokenizer)
        self.smallest_window: int | None = getattr(self.config, "sliding_window", None)

    @staticmethod
    def load(
        path: str, *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
    ) -> PreTrainedModel:
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_source(path),
            dtype=dtype,
            attn_implementation="eager",  # replaced later; a config may name attention code on the hub
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
        moved: PreTrainedModel = model.to(device)
        return moved

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def device(self) -> torch.device:
        return torch.device(self.head.weight.device)

    @property
    def capturable(self) -> bool:
        """True if a pass can be captured as a CUDA graph; a model's own code may read values on the host."""
        return self.fused is not None and self.device.type == "cuda"

    @property
    def vocab_size(self) -> int:
        return int(self.head.weight.shape[0])

    @property
    def head(self) -> LmHead:
        return lm_head_of(self.model)

    def logits(
        self, ids: Tensor, positions: Tensor, batch: AttentionBatch, keep: Tensor | None = None
    ) -> Tensor:
        """Return logits [T, V] of tokens ids [T] at positions [T]; with keep [E], only of those tokens."""
        if self.fused is not None:
            hidden = self.fused.hidden(ids, positions, batch)
            return self.head_logits(hidden if keep is None else hidden[keep])
        with attending(batch):
            out = self.model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=0 if keep is None else keep,
            )
        logits: Tensor = out.logits[0]
        return logits

    def hidden(self, ids: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        """Return the last hidden states [T, D], the input of the LM head."""
        if self.fused is not None:
            return self.fused.hidden(ids, positions, batch)
        with attending(batch):
            out = self.model.get_decoder()(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def head_logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [E, V] of last hidden states [E, D]."""
        head = self.head
        logits = self._head_product(hidden)
        if head.logit_scale != 1:
            logits = logits * head.logit_scale
        return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)

    def drop_fused(self) -> None:
        """Release the fused weights; call it before the model moves to another device."""
        for product in self.products():
            product.unpack()
        self.fused: LlamaLike | None = None

    def fuse(self) -> None:
        """Fuse the weights if the class is supported; call it after the model has moved."""
        self.fused = LlamaLike(self.model) if LlamaLike.fits(self.model) else None
        self._head_product = Product.of([self.model.get_output_embeddings()], keep_plain=True)

    def pack(self) -> None:
        """Move large weights into oneDNN's layout; call it when all weights have arrived."""
        for product in self.products():
            product.pack()

    @contextmanager
    def plain_weights(self) -> Iterator[None]:
        """Let the model's parameters hold their weights inside the block; they may be written to."""
        for product in self.products():
            product.unpack()
        try:
            yield
        finally:
            if self.fused is not None:
                self.fused.refresh()
            self.pack()

    def products(self) -> Iterator[Product]:
        """Yield the products that may be packed: the head's, then those of the layers."""
        yield self._head_product
        if self.fused is not None:
            yield from self.fused.products()

    def own_logits(self, ids: Tensor) -> Tensor:
        """Return the logits [T, V] of one sequence with the model's own attention, without a cache."""
        self.model.set_attn_implementation("eager")
        try:
            with self.plain_weights():
                logits: Tensor = self.model(input_ids=ids[None], use_cache=False).logits[0]
        finally:
            self.model.set_attn_implementation(ATTENTION)
        return logits


def _refuse_unsupported(model: Any) -> None:
    name, config = type(model).__name__, model.config
    if config.is_encoder_decoder:
        raise NotImplementedError(f"[engine] {name}: expected a decoder, got an encoder-decoder")
    if not getattr(model, "_supports_attention_backend", False) or getattr(model, "_is_stateful", False):
        raise NotImplementedError(f"[engine] {name}: expected a decoder with exchangeable attention")
    other = set(getattr(config.get_text_config(), "layer_types", None) or ()) - set(_KNOWN_LAYERS)
    if other:
        raise NotImplementedError(f"[engine] {name}: expected layers {_KNOWN_LAYERS}, got {sorted(other)}")
    if model.get_output_embeddings() is None:
        raise ValueError(f"[engine] {name}: expected a causal language model, got one without a head")


def _longest(model: PreTrainedModel, tokenizer: Any) -> int:
    config = model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or getattr(tokenizer, "model_max_length", None)
    if longest is None:
        raise ValueError(f"[engine] {type(model).__name__}: expected max_position_embeddings in its config")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _STRETCHED_ROPE:
        # beyond this length the rotary angles depend on the longest sequence in the batch
        longest = min(longest, rope.get("original_max_position_embeddings") or longest)
    return int(longest)
