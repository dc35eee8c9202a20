"""Architectures of the world's three models, and their randomly initialised Hugging Face checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from fastrl.tiny.world.tokenizers import MAX_LENGTH, generator_tokenizer, receiver_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Architecture and size of a tiny decoder."""

    family: Literal["qwen3", "llama"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    """heads * head_dim exceeds hidden: look-up tasks train faster with more attention capacity."""
    intermediate: int

    def tokenizer(self) -> PreTrainedTokenizerFast:
        return generator_tokenizer() if self.family == "qwen3" else receiver_tokenizer()


GENERATOR = Shape(family="qwen3", hidden=128, layers=2, heads=16, kv_heads=16, head_dim=16, intermediate=384)
RECEIVER = Shape(family="llama", hidden=96, layers=2, heads=16, kv_heads=16, head_dim=16, intermediate=256)
HELD_OUT_RECEIVER = Shape(
    family="llama", hidden=64, layers=2, heads=8, kv_heads=8, head_dim=16, intermediate=192
)


def initialise(shape: Shape, folder: Path, *, seed: int) -> Path:
    """Write a checkpoint with random weights and its tokenizer; equal seeds give equal bits."""
    tokenizer = shape.tokenizer()
    auto: Any = AutoModelForCausalLM
    kind: Any = Qwen3Config if shape.family == "qwen3" else LlamaConfig
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=shape.hidden**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
