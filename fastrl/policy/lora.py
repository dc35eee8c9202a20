"""Low-rank adapters inside a Hugging Face model (peft), and the weights that they make."""

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
"""Of a checkpoint, with the adapters as peft saves them."""
WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."


def check_peft(config: AdapterConfig, section: str = "") -> None:
    """Adapters are asked for: the package that makes them is there. section: that holds [lora]."""
    if config.rank and find_spec("peft") is None:
        raise ValueError(
            f"[{section}lora] rank: expected 0 where peft is not installed (pip install 'peft>=0.17'), "
            f"got {config.rank}"
        )


def layers_to_adapt(model: Any, target_modules: Collection[str] = ()) -> dict[str, Any]:
    """A decoder's linear layers by name, its head left out; with target_modules, those so called."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
        if not target_modules or last_part(name) in target_modules
    }


def linear_layers(model: Any) -> list[str]:
    """What a decoder's linear layers are called."""
    return sorted({last_part(name) for name in layers_to_adapt(model)})


def last_part(name: str) -> str:
    """model.layers.0.self_attn.q_proj -> q_proj"""
    return name.rpartition(".")[2]


def add_adapters(model: Any, config: AdapterConfig, seed: int, dropout: float = 0.0) -> None:
    """W becomes W + alpha / rank * B A in linear layers, in place; everything else is frozen.

    A is drawn by the seed, B is zero: nothing changes yet. Dropout acts on what goes into A, in train mode.
    Experts that are one tensor are no linear layers, and stay as they are.
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
    """peft's layers by their names in the model."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """A and B of every adapted layer, by name; nothing where there are no adapters."""
    return {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}


def save_adapters(model: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """A folder that peft.PeftModel.from_pretrained(the model without adapters, folder) takes. weights: of the
    adapters, as adapter_weights has them; None: the model's own."""
    weights = adapter_weights(model) if weights is None else weights
    config = copy(model.peft_config[ADAPTER])
    config.inference_mode, config.base_model_name_or_path = True, model.name_or_path
    config.target_modules = sorted(config.target_modules)  # peft's is a set: the same file in every process
    config.save_pretrained(folder)
    named = {saved_name(name): weight.contiguous() for name, weight in weights.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapters(model: Any, folder: Path) -> None:
    """save_adapters' inverse, into adapters that are there.

    Raises: ValueError: they are the weights of other adapters.
    """
    own = {saved_name(name): weight for name, weight in adapter_weights(model).items()}
    weights = load_file(folder / WEIGHTS)
    shapes, saved = ({name: w.shape for name, w in each.items()} for each in (own, weights))
    if shapes != saved:
        differing = sorted(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
        raise ValueError(
            f"[lora] rank: expected the saved adapters' layers and rank, got others: {differing[0]}"
        )
    for name, weight in own.items():
        weight.copy_(weights[name])


def saved_name(name: str) -> str:
    """peft leaves an adapter's name out of those of its tensors, and puts those of its own modules before."""
    return PREFIX + name.replace(f".{ADAPTER}.weight", ".weight")


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """The model computes what it did before it had adapters, to the bit."""
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
    """The model's state under the names it has without adapters, each weight with its adapter added.

    The model is left as it is: adding and taking away again would round its weights.
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
    """Parameters as in merged_weights, tied ones once, one made at a time. changed_only: those that have an
    adapter."""
    layers = adapted_layers(model)
    for name, parameter in model.named_parameters():
        path, _, last = name.rpartition(".base_layer.")
        if path and last == "weight":
            with torch.no_grad():
                merged = parameter + layers[path].get_delta_weight(ADAPTER)
            yield f"{path}.weight", merged
        elif ".lora_" not in name and not changed_only:
            yield name.replace(".base_layer.", "."), parameter.detach()
