"""Checks of LoRA adapters before a model is loaded: peft is installed, and the named layers exist."""

from __future__ import annotations

from typing import Any

import torch

from fastrl.config import (
    AdapterConfig,
    BackboneConfig,
    Config,
    CptConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    refuse,
)
from fastrl.policy.lora import check_peft, linear_layers
from fastrl.policy.source import model_source

TRAINED = (RlConfig, SftConfig, CptConfig)


def check_adapters(config: Config) -> None:
    """Raise ValueError if the stage trains adapters and peft is missing or too old."""
    if isinstance(config, TRAINED):
        check_peft(config.model.lora, "model.")


def check_layers_to_adapt(config: Config) -> None:
    """Raise ValueError if target_modules names a layer that the model lacks; the message lists its layers.

    Builds the model on the meta device, without weights.
    """
    if isinstance(config, TRAINED):
        named_layers_exist("model.lora", config.model, config.model.lora)
    elif isinstance(config, RewardModelConfig):
        named_layers_exist("lora", config.model, config.lora)


def named_layers_exist(section: str, model: BackboneConfig, lora: AdapterConfig) -> None:
    if not lora.rank or not lora.target_modules:
        return
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_source(model.path), trust_remote_code=model.trust_remote_code)
    from_config: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        outline = from_config(config, attn_implementation="eager", trust_remote_code=model.trust_remote_code)
    known = linear_layers(outline)
    if unknown := sorted(set(lora.target_modules) - set(known)):
        refuse(section, "target_modules", f"names among {', '.join(known)}", unknown[0])
