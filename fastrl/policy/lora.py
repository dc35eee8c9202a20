"""LoRA adapters in a Hugging Face model (peft), and the merged weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fastrl.config import AdapterConfig

ADAPTER = "default"
FOLDER = "adapter"
"""Subfolder of a checkpoint with the adapters in peft's format."""
WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."


def check_peft(config: AdapterConfig, section: str = "") -> None:
    """Raise ValueError if the configuration has adapters and peft is not installed.

    Args:
        section: prefix of the section lora in messages, such as "model.".
    """
    if config.rank and find_spec("peft") is None:
        raise ValueError(
            f"[{section}lora] rank: expected 0 if peft is not installed (pip install 'peft>=0.17'), "
            f"got {config.rank}"
        )


def layers_to_adapt(model: Any, target_modules: Collection[str] = ()) -> dict[str, Any]:
    """Return a decoder's linear layers by name, without the LM head; with target_modules, only those."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
        if not target_modules or last_part(name) in target_modules
    }


def linear_layers(model: Any) -> list[str]:
    """Return the distinct last names of a decoder's linear layers, such as q_proj."""
    return sorted({last_part(name) for name in layers_to_adapt(model)})


def last_part(name: str) -> str:
    """Return the last part of a dotted name: model.layers.0.self_attn.q_proj -> q_proj."""
    return name.rpartition(".")[2]


def add_adapters(model: Any, config: AdapterConfig, seed: int, dropout: float = 0.0) -> None:
    """Add adapters to linear layers in place, W -> W + alpha / rank * B A, and freeze everything else.

    A is initialised from the seed and B is 0, so the model's output does not change yet. Dropout is on the
    input of A, in train mode. Experts stored as one tensor are not linear layers and get no adapter.
    """
    check_peft(config)
    import peft

    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it by the rank
        lora_dropout=dropout,
        target_modules=list(config.target_modules) or "all-linear",
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(adapters, model, adapter_name=ADAPTER)


def adapted_layers(model: Any) -> dict[str, Any]:
    """Return the layers with an adapter, by name."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """Return A and B of every adapted layer, by name; empty without adapters."""
    return {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}


def save_adapters(model: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a folder that peft.PeftModel.from_pretrained(model without adapters, folder) loads.

    Args:
        weights: the adapters' weights in the form of adapter_weights; None: the model's own.
    """
    weights = adapter_weights(model) if weights is None else weights
    config = copy(model.peft_config[ADAPTER])
    config.inference_mode, config.base_model_name_or_path = True, model.name_or_path
    config.target_modules = sorted(config.target_modules)  # peft's set has a random order
    config.save_pretrained(folder)
    named = {saved_name(name): weight.contiguous() for name, weight in weights.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapters(model: Any, folder: Path) -> None:
    """Load weights that save_adapters wrote into the model's adapters.

    Raises: ValueError: the saved adapters have other layers or another rank.
    """
    own = {saved_name(name): weight for name, weight in adapter_weights(model).items()}
    weights = load_file(folder / WEIGHTS)
    shapes, saved = ({name: w.shape for name, w in tensors.items()} for tensors in (own, weights))
    if shapes != saved:
        differing = sorted(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
        raise ValueError(
            f"[lora] rank: expected the saved adapters' layers and rank, got others: {differing[0]}"
        )
    for name, weight in own.items():
        weight.copy_(weights[name])


def saved_name(name: str) -> str:
    """Return a tensor's name in peft's files, which omit the adapter's name and prefix peft's own modules."""
    return PREFIX + name.replace(f".{ADAPTER}.weight", ".weight")


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """Disable the adapters within the block; the model's output is then bitwise that without adapters."""
    layers = list(adapted_layers(model).values())
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merged_weights(model: Any) -> dict[str, Tensor]:
    """Return the model's state dict with merged adapters, under the names of the model without adapters.

    The model itself is not changed: adding and subtracting an adapter would round its weights.
    """
    weights = {
        name.replace(".base_layer.", "."): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in adapted_layers(model).items():
        weights[f"{name}.weight"] = weights[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return weights


def merged_parameters(model: Any, changed_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of merged_weights one by one, tied ones once.

    Args:
        changed_only: only parameters with an adapter.
    """
    layers = adapted_layers(model)
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".base_layer.")
        if path and last == "weight":
            with torch.no_grad():
                merged = parameter + layers[path].get_delta_weight(ADAPTER)
            yield f"{path}.weight", merged
        elif ".lora_" not in name and not changed_only:
            yield name.replace(".base_layer.", "."), parameter.detach()
