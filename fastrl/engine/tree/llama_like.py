"""A forward pass of Llama-like decoders in a third of the operations: fused projections, no module calls.

Small models on a CPU, and decoding on a GPU, are bound by launches and not by arithmetic. The model's
parameters become views into the fused weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastrl.engine.tree.attention import AttentionBatch, AttentionLayer
from fastrl.engine.tree.layer_ops import rms_norm, rotate, silu_mul
from fastrl.engine.tree.product import Product

_CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


@dataclass(slots=True)
class _Layer:
    attention: AttentionLayer
    attention_norm: Tensor
    qkv: Product
    query_key_norm: Tensor | None
    """[Hq + Hkv, K] weights of the norm of queries and keys; None: the model has none."""
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


class LlamaLike:
    """Fused forward pass of a Llama-like model; tests compare it with the model's own modules."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.decoder = model.model
        self.eps = float(config.rms_norm_eps)
        self.head_dim = int(self.decoder.layers[0].self_attn.head_dim)
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.layers = [self._layer(layer, i) for i, layer in enumerate(self.decoder.layers)]

    @staticmethod
    def fits(model: Any) -> bool:
        """Return True if the model's class is supported and its projections are plain linear layers."""
        if type(model).__name__ not in _CLASSES or model.config.hidden_act != "silu":
            return False
        projections = [
            m for layer in model.model.layers for m in layer.modules() if hasattr(m, "in_features")
        ]
        return all(type(m) is nn.Linear for m in projections)  # adapters and quantised layers are not

    def refresh(self) -> None:
        """Update the copies of norm weights after parameters have changed; all other weights are views."""
        for layer, own in zip(self.layers, self.decoder.layers, strict=True):
            layer.query_key_norm = self._query_key_norm(own.self_attn)

    def products(self) -> Iterator[Product]:
        """Yield every fused product of the layers."""
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)

    def _query_key_norm(self, attention: Any) -> Tensor | None:
        if not hasattr(attention, "q_norm"):
            return None
        heads = [attention.q_norm.weight] * self.num_heads + [attention.k_norm.weight] * self.num_kv_heads
        return torch.stack([weight.data for weight in heads])

    def _layer(self, layer: Any, index: int) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        window = getattr(attention, "sliding_window", None)
        if type(attention).__name__ == "MistralAttention":
            window = attention.config.sliding_window
        return _Layer(
            attention=AttentionLayer(index, float(attention.scaling), None, window),
            attention_norm=layer.input_layernorm.weight.data,
            qkv=Product.of([attention.q_proj, attention.k_proj, attention.v_proj]),
            query_key_norm=self._query_key_norm(attention),
            out=Product.of([attention.o_proj]),
            mlp_norm=layer.post_attention_layernorm.weight.data,
            gate_up=Product.of([mlp.gate_proj, mlp.up_proj]),
            down=Product.of([mlp.down_proj]),
        )

    def hidden(self, ids: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        """Return the last hidden states [T, D] of tokens ids [T] at positions [T]."""
        x: Tensor = self.decoder.embed_tokens(ids)
        cos, sin = self.decoder.rotary_emb(x, positions[None])
        half = self.head_dim // 2
        cos, sin = cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
        for layer in self.layers:
            attended = self._attention(layer, rms_norm(x, layer.attention_norm, self.eps), cos, sin, batch)
            x = layer.out.add_to(x, attended)
            x = layer.down.add_to(x, silu_mul(layer.gate_up(rms_norm(x, layer.mlp_norm, self.eps))))
        return rms_norm(x, self.decoder.norm.weight, self.eps)

    def _attention(self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, batch: AttentionBatch) -> Tensor:
        rotated = self.num_heads + self.num_kv_heads
        qkv = layer.qkv(x).view(len(x), rotated + self.num_kv_heads, self.head_dim)
        qk, value = qkv[:, :rotated], qkv[:, rotated:]
        if layer.query_key_norm is not None:
            qk = F.rms_norm(qk, (self.head_dim,), None, self.eps) * layer.query_key_norm
        qk = rotate(qk, cos, sin)
        out = batch.attend(qk[:, : self.num_heads], qk[:, self.num_heads :], value, layer.attention)
        return out.reshape(len(x), -1)
