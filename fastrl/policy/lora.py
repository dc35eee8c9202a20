"""Low-rank adapters inside a Hugging Face model (peft), and the weights that they make."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fastrl.config import LoraConfig

ADAPTER = "default"


def check_peft(config: LoraConfig) -> None:
    """Adapters are asked for: the package that makes them is there."""
    if config.rank and find_spec("peft") is None:
        raise ValueError(
            f"[lora] rank: expected 0 where peft is not installed (pip install fastrl[peft]), "
            f"got {config.rank}"
        )


def add_adapters(model: Any, config: LoraConfig, seed: int) -> None:
    """W becomes W + alpha / rank * B A in every linear layer, in place; W is frozen.

    A is drawn by the seed, B is zero: nothing changes yet. Dropout acts on what goes into A, in train mode.
    Experts that are one tensor are no linear layers, and stay as they are.
    """
    check_peft(config)
    import peft

    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it by the rank
        lora_dropout=config.dropout,
        target_modules="all-linear",
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(adapters, model, adapter_name=ADAPTER)


def adapter_weights(model: Any) -> dict[str, Tensor]:
    """A and B of every adapted layer, by name; nothing where there are no adapters."""
    return {name: p.detach() for name, p in model.named_parameters() if ".lora_" in name}


def load_adapters(model: Any, weights: dict[str, Tensor]) -> None:
    """adapter_weights' inverse.

    Raises: ValueError: they are the weights of other adapters.
    """
    own = adapter_weights(model)
    shapes, saved = ({name: w.shape for name, w in each.items()} for each in (own, weights))
    if shapes != saved:
        differing = sorted(name for name in {*shapes, *saved} if shapes.get(name) != saved.get(name))
        raise ValueError(
            f"[lora] rank: expected the saved adapters' layers and rank, got others: {differing[0]}"
        )
    for name, weight in own.items():
        weight.copy_(weights[name])


@torch.no_grad()
def merged_weights(model: Any) -> dict[str, Tensor]:
    """The model's weights under the names they have without adapters, each with its adapter added.

    The model is left as it is: adding and taking away again would round its weights.
    """
    weights = {
        name.replace(".base_layer.", "."): value
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    return weights
