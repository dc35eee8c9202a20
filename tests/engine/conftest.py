from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM

from fastrl.engine.tree.engine import TorchEngine

CPU = torch.device("cpu")


class Family:
    """An engine and the same checkpoint as plain Hugging Face model in float64, the oracle."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.engine = TorchEngine.from_pretrained(path, dtype=torch.float32, device=CPU)
        # eager is the one implementation that knows every option (soft-capped scores among them)
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float64, attn_implementation="eager"
        ).eval()

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        return self.model(torch.tensor([list(ids)]), use_cache=False).logits[0]

    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        """The most likely tokens, one full forward pass a token; ends after the end token."""
        ids = list(prompt)
        while len(ids) < len(prompt) + count:
            ids.append(int(self.logits(ids)[-1].argmax()))
            if ids[-1] == self.engine.tokenizer.eos_token_id:
                break
        return ids[len(prompt) :]


@pytest.fixture(scope="session")
def family(checkpoints):
    return cache(lambda name: Family(str(checkpoints[name])))
