"""Configuration: frozen dataclasses, one per owner. The only truth; recipes and flags fill these in."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, TypeVar

from fastrl.config.alarm import AlarmConfig
from fastrl.config.base import (
    AdapterConfig,
    Attention,
    BackboneConfig,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_at_least,
    check_positive,
    microbatch_tokens,
    refuse,
)
from fastrl.config.cpt import CptConfig, TextConfig
from fastrl.config.engine import EngineConfig, ReceiverEngineConfig
from fastrl.config.executor import ExecutorConfig, ProgramConfig
from fastrl.config.faithfulness import FaithfulnessConfig
from fastrl.config.groups import GroupsConfig, WriterConfig
from fastrl.config.hard_set import GradingConfig, HardSetConfig, SamplingConfig
from fastrl.config.intervene import InterveneConfig, ProposalConfig, StepsConfig
from fastrl.config.labels import LabelConfig
from fastrl.config.pipeline import PipelineConfig, pipeline_class, references, resolved
from fastrl.config.reward_model import LoraConfig, RewardModelConfig, RubricLossConfig
from fastrl.config.rl import EvalConfig, RewardConfig, RlConfig, RolloutConfig, derived
from fastrl.config.sft import SftConfig
from fastrl.config.subset import SubsetConfig
from fastrl.config.transfer import TransferConfig
from fastrl.config.uplift import UpliftConfig
from fastrl.kernels.config import LossConfig

__all__ = [
    "STAGES", "AdapterConfig", "AlarmConfig", "Attention", "BackboneConfig", "CheckpointConfig",
    "Config", "CptConfig", "DataConfig", "EngineConfig", "EvalConfig", "ExecutorConfig",
    "FaithfulnessConfig", "GradingConfig", "GroupsConfig", "HardSetConfig", "InterveneConfig",
    "LabelConfig", "Learns", "LoraConfig", "LossConfig", "ModelConfig", "PipelineConfig",
    "ProgramConfig", "ProposalConfig", "ReceiverEngineConfig", "Recipe", "RewardConfig",
    "RewardModelConfig", "RlConfig", "RolloutConfig", "RubricLossConfig", "RunConfig",
    "SamplingConfig", "SftConfig", "StepsConfig", "SubsetConfig", "TextConfig", "TrainConfig",
    "TransferConfig", "UpliftConfig", "WriterConfig", "check_at_least", "check_positive", "derived",
    "differences", "get_option", "microbatch_tokens", "pipeline_class", "references", "refuse",
    "resolved", "with_option",
]  # fmt: skip

T = TypeVar("T")
Learns = RlConfig | SftConfig | CptConfig | RewardModelConfig
"""Stages that train a model."""
Config = Learns | GroupsConfig | HardSetConfig | InterveneConfig | SubsetConfig
STAGES: dict[str, type[Config]] = {
    "rl": RlConfig,
    "sft": SftConfig,
    "reward_model": RewardModelConfig,
    "groups": GroupsConfig,
    "hard_set": HardSetConfig,
    "intervene": InterveneConfig,
    "subset": SubsetConfig,
    "cpt": CptConfig,
}
Recipe = Config | PipelineConfig


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Dotted names of fields whose values differ between two configurations."""
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b) and type(a) is type(b):
        found: list[str] = []
        for item in dataclasses.fields(a):
            found += differences(
                getattr(a, item.name), getattr(b, item.name), f"{path}.{item.name}".lstrip(".")
            )
        return found
    return [] if a == b else [path]


def get_option(config: Any, name: str) -> Any:
    """None: a configuration of this stage has no such option."""
    first, _, rest = name.partition(".")
    value = getattr(config, first, None)
    return get_option(value, rest) if rest else value


def with_option(config: T, name: str, value: Any) -> T:
    """The configuration with one option, by its dotted name, changed."""
    first, _, rest = name.partition(".")
    changed = with_option(getattr(config, first), rest, value) if rest else value
    return replace(config, **{first: changed})  # type: ignore[type-var]
