"""Tiny checkpoints in shapes that vLLM's CPU kernels support, and their float64 oracles."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from checkpoints import SIZES, byte_tokenizer
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedConfig, Qwen3Config

SHAPE = SIZES | {"head_dim": 32, "max_position_embeddings": 192}
CONFIGS = {
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=False),
    "gemma2": lambda: Gemma2Config(
        **SHAPE, query_pre_attn_scalar=8, sliding_window=6,
        final_logit_softcapping=30.0, attn_logit_softcapping=20.0,
    ),
}  # fmt: skip


def random_model(config: PreTrainedConfig, seed: int = 0) -> torch.nn.Module:
    """Weights larger than an initialisation, so that distributions differ from uniform."""
    g = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15, generator=g)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.1)
    return model


def write(folder: Path, family: str) -> Path:
    if not folder.exists():
        random_model(CONFIGS[family]()).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
    return folder


@cache
def vllm_engine(path: str):
    """One for all tests: whoever loads weights into it puts the checkpoint's back."""
    from fastrl.engine.vllm.engine import VllmEngine

    return VllmEngine(path, dtype=torch.float32, device=torch.device("cpu"), max_batch_tokens=4096)


class Oracle:
    """The checkpoint as plain Hugging Face model in float64."""

    def __init__(self, path: Path) -> None:
        # eager is the one implementation that knows every option (soft-capped scores among them)
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float64, attn_implementation="eager"
        ).eval()

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        return self.model(torch.tensor([list(ids)]), use_cache=False).logits[0]

    def own_logprobs(self, prompt: Sequence[int], completion: Sequence[int]) -> list[float]:
        rows = self.logits([*prompt, *completion]).log_softmax(-1)[len(prompt) - 1 : -1]
        return rows.gather(-1, torch.tensor(completion)[:, None])[:, 0].tolist()
