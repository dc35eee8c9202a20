"""Configuration: frozen dataclasses, one per owner. The only truth; recipes and flags fill these in."""

from __future__ import annotations

import dataclasses

from fastrl.config.base import (
    Attention,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    check_at_least,
    check_positive,
    refuse,
)
from fastrl.config.engine import EngineConfig, ReceiverEngineConfig
from fastrl.config.executor import ExecutorConfig, ProgramConfig
from fastrl.config.groups import GroupsConfig, WriterConfig
from fastrl.config.reward_model import LoraConfig, RewardModelConfig, RubricLossConfig
from fastrl.config.rl import EvalConfig, RewardConfig, RlConfig, RolloutConfig, derived
from fastrl.config.sft import SftConfig
from fastrl.config.transfer import TransferConfig
from fastrl.config.uplift import UpliftConfig
from fastrl.kernels.config import LossConfig

__all__ = [
    "STAGES", "Attention", "Config", "DataConfig", "EngineConfig", "EvalConfig", "ExecutorConfig",
    "GroupsConfig", "LoraConfig", "LossConfig", "ModelConfig", "ProgramConfig", "ReceiverEngineConfig",
    "RewardConfig", "RewardModelConfig", "RlConfig", "RolloutConfig", "RubricLossConfig", "RunConfig",
    "SftConfig", "TrainConfig", "TransferConfig", "UpliftConfig", "WriterConfig", "check_at_least",
    "check_positive", "derived", "differences", "refuse",
]  # fmt: skip

Config = RlConfig | SftConfig | RewardModelConfig | GroupsConfig
STAGES: dict[str, type[Config]] = {
    "rl": RlConfig,
    "sft": SftConfig,
    "reward_model": RewardModelConfig,
    "groups": GroupsConfig,
}


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
