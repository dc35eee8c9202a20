"""Adapters, before a model is loaded: only a model that is trained has any, on layers that it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from fastrl.config import (
    AdapterConfig,
    Config,
    CptConfig,
    ModelConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    refuse,
)
from fastrl.policy.lora import check_peft, linear_layers

TRAINED = (RlConfig, SftConfig, CptConfig)


def check_adapters(config: Config) -> None:
    """Refuse adapters of a frozen model, and those that can't be made.

    Raises: ValueError: one line that names the field, what it takes and what it got.
    """
    for section, model in models_of(config):
        trained = section == "model" and isinstance(config, TRAINED)
        if model.lora.rank and not trained:
            own = section == "model" and isinstance(config, RewardModelConfig)
            why = "the section lora is this stage's" if own else "this model is not trained"
            refuse(f"{section}.lora", "rank", f"0, since {why}", model.lora.rank)
        if trained:
            check_peft(model.lora, "model.")


def check_layers_to_adapt(config: Config) -> None:
    """The layers that adapters are asked for are there; the model, which exists, is outlined without weights.

    Raises: ValueError: one is not; names those that are.
    """
    if isinstance(config, TRAINED):
        named_layers_exist("model.lora", config.model, config.model.lora)
    elif isinstance(config, RewardModelConfig):
        named_layers_exist("lora", config.model, config.lora)


def named_layers_exist(section: str, model: ModelConfig, lora: AdapterConfig) -> None:
    if not lora.rank or not lora.target_modules:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        known = linear_layers(make(config, trust_remote_code=model.trust_remote_code))
    if unknown := sorted(set(lora.target_modules) - set(known)):
        refuse(section, "target_modules", f"names among {', '.join(known)}", unknown[0])


def models_of(config: Any, path: str = "") -> Iterator[tuple[str, ModelConfig]]:
    """Every model of a configuration under its dotted name."""
    if isinstance(config, ModelConfig):
        yield path, config
    elif dataclasses.is_dataclass(config):
        for each in dataclasses.fields(config):
            yield from models_of(getattr(config, each.name), f"{path}.{each.name}".lstrip("."))
