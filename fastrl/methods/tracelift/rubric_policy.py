"""The reward model's network of backbone and heads, and the Policy that saves it in two weight files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastrl.methods.tracelift.rubric_dimensions import NUM_LEVELS
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_loss import NUM_DIMENSIONS
from fastrl.policy.lora import FOLDER, adapter_weights, merged_parameters, merged_weights, save_adapters
from fastrl.policy.model import WEIGHTS, Policy, save_config
from fastrl.policy.shard import gather
from fastrl.runtime.versions import package_version

FORMAT, POOLING = 1, "last_token"
HEADS, RUBRIC = "rubric/heads.safetensors", "rubric.json"
HEADS_BEFORE = "rubric_heads.safetensors"
"""Path of the heads in folders of fastrl 0.1."""


class RubricNetwork(nn.Module):
    """A backbone and its heads, with the attributes of a Hugging Face model that Policy uses.

    Args:
        device: device of the heads; the backbone may be on the meta device.
    """

    def __init__(self, backbone: Any, rubric: Rubric, device: torch.device) -> None:
        super().__init__()
        self.base_model = backbone
        self.config, self.device, self.rubric = backbone.config, device, rubric
        self._no_split_modules = backbone._no_split_modules
        width = self.config.get_text_config().hidden_size
        # zeros: every score starts at 0.5
        self.heads = nn.Linear(width, NUM_DIMENSIONS * NUM_LEVELS + 1, device=device, dtype=torch.float32)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def get_output_embeddings(self) -> nn.Linear:
        return self.heads

    def save_pretrained(self, folder: Path) -> None:
        self.base_model.save_pretrained(folder, state_dict=merged_weights(self.base_model))
        heads = {name: weight.contiguous() for name, weight in self.heads.state_dict().items()}
        (folder / HEADS).parent.mkdir(exist_ok=True)
        save_file(heads, folder / HEADS)
        if weights := adapter_weights(self.base_model):
            save_adapters(self.base_model, folder / FOLDER, weights)
        self.save_rubric(folder)

    def save_rubric(self, folder: Path) -> None:
        about = {
            "format": FORMAT,
            "task": self.rubric.task,
            "dimensions": self.rubric.dimensions,
            "levels": NUM_LEVELS,
            "pooling": POOLING,
            "max_tokens": self.rubric.max_tokens,
            "versions": {name: package_version(name) for name in ("fastrl", "torch", "transformers")},
        }
        (folder / RUBRIC).write_text(json.dumps(about, indent=2) + "\n")


def read_heads(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a saved reward model's heads."""
    before = folder / HEADS_BEFORE
    return load_file(before if before.exists() else folder / HEADS)


class RubricPolicy(Policy):
    """Policy of a RubricNetwork: saves the backbone as AutoModel expects it, the heads in another file."""

    def weight_files(self) -> dict[str, dict[str, Tensor]]:
        self.reshard()
        backbone = self.model.base_model
        saved = backbone.state_dict().keys()
        weights = dict(merged_parameters(backbone))
        weights |= {name: buffer for name, buffer in backbone.named_buffers() if name in saved}
        heads = {name: parameter.detach() for name, parameter in self.model.heads.named_parameters()}
        return {WEIGHTS: weights, HEADS: heads}

    def save_all_but_weights(self, folder: Path, writes: bool) -> None:
        backbone = self.model.base_model
        adapters = {name: gather(weight, self.device) for name, weight in adapter_weights(backbone).items()}
        if not writes:
            return
        save_config(backbone, folder)
        if adapters:
            save_adapters(backbone, folder / FOLDER, adapters)
        self.model.save_rubric(folder)
        self.tokenizer.save_pretrained(folder)
