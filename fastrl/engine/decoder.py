"""A Hugging Face decoder that reads a flat stream of tokens and leaves attention to the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedModel

ATTENTION = "fastrl_engine"
_KNOWN_LAYERS = ("full_attention", "sliding_attention")
_STRETCHED_ROPE = ("dynamic", "longrope")


class AttentionLayer(NamedTuple):
    """How one layer attends."""

    layer: int
    scaling: float
    softcap: float | None
    window: int | None
    """A token sees itself and the window - 1 tokens before it; None: all."""


class AttentionBatch(Protocol):
    """What a forward pass attends with: it stores keys and values and answers queries, layer by layer."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: AttentionLayer) -> Tensor:
        """query [T, Hq, K], key [T, Hkv, K], value [T, Hkv, Kv] of the pass's T tokens -> [T, Hq, Kv]."""


def engine_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
    fastrl_batch: AttentionBatch | None = None, **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """The attention function that the engine's models call in every layer."""
    if fastrl_batch is None:
        raise RuntimeError(
            f"[engine] {type(module).__name__}: expected to be called by the engine with its batch, got none"
        )
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise NotImplementedError(
                f"[engine] {type(module).__name__}: attention with {name} is not supported"
            )
    index = getattr(module, "layer_idx", None)
    if index is None:
        raise NotImplementedError(f"[engine] {type(module).__name__}: expected a layer_idx, got none")
    how = AttentionLayer(
        index, query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, sliding_window
    )
    out = fastrl_batch.attend(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), how)
    return out[None], None


AttentionInterface.register(ATTENTION, engine_attention)


@dataclass(frozen=True, slots=True)
class Head:
    """logits = softcap * tanh(logit_scale * (hidden weight^T + bias) / softcap); without softcap, the inside."""

    weight: Tensor
    bias: Tensor | None
    logit_scale: float
    softcap: float | None

    def options(self) -> dict[str, Any]:
        """As `fastrl.ops.linear_logprob` takes it."""
        return {"bias": self.bias, "logit_scale": self.logit_scale, "softcap": self.softcap}


class Decoder:
    """The model as the engine uses it: T tokens in, logits of some of them out."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        _refuse_unsupported(model)
        model.set_attn_implementation(ATTENTION)
        self.model = model.eval().requires_grad_(False)
        self.max_model_len = _longest(model, tokenizer)
        self.smallest_window: int | None = getattr(model.config, "sliding_window", None)

    @staticmethod
    def load(
        path: str, *, dtype: torch.dtype, device: torch.device, trust_remote_code: bool
    ) -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)
        return model.to(device)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def vocab_size(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def logits(
        self, ids: Tensor, positions: Tensor, batch: AttentionBatch, keep: Tensor | None = None
    ) -> Tensor:
        """Logits [T, V] of tokens ids [T] at positions [T]; with keep [E]: of those tokens only."""
        out = self.model(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, fastrl_batch=batch,
            logits_to_keep=0 if keep is None else keep,
        )  # fmt: skip
        return out.logits[0]  # type: ignore[no-any-return]

    def hidden(self, ids: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        """Last hidden states [T, D], the input of the language-model head."""
        out = self.model.get_decoder()(
            input_ids=ids[None], position_ids=positions[None], use_cache=False, fastrl_batch=batch
        )
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    @property
    def head(self) -> Head:
        layer, config = self.model.get_output_embeddings(), self.model.config
        scale = getattr(config, "logit_scale", None) or 1.0
        return Head(
            weight=layer.weight, bias=getattr(layer, "bias", None),
            logit_scale=scale / (getattr(config, "logits_scaling", None) or 1.0),
            softcap=getattr(config, "final_logit_softcapping", None),
        )  # fmt: skip


def _refuse_unsupported(model: PreTrainedModel) -> None:
    name, config = type(model).__name__, model.config
    if not getattr(model, "_supports_attention_backend", False) or getattr(model, "_is_stateful", False):
        raise NotImplementedError(f"[engine] {name}: expected a decoder with exchangeable attention")
    if getattr(config, "is_encoder_decoder", False):
        raise NotImplementedError(f"[engine] {name}: expected a decoder, got an encoder-decoder")
    other = set(getattr(config, "layer_types", None) or ()) - set(_KNOWN_LAYERS)
    if other:
        raise NotImplementedError(f"[engine] {name}: expected layers {_KNOWN_LAYERS}, got {sorted(other)}")


def _longest(model: PreTrainedModel, tokenizer: Any) -> int:
    config = model.config
    longest = getattr(config, "max_position_embeddings", None) or getattr(tokenizer, "model_max_length", None)
    if longest is None:
        raise ValueError(f"[engine] {type(model).__name__}: expected max_position_embeddings in its config")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _STRETCHED_ROPE:
        # beyond this length the angles of all tokens change with the longest one in the batch
        longest = min(longest, rope.get("original_max_position_embeddings") or longest)
    return int(longest)
