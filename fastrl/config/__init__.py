"""Configuration: frozen dataclasses, one per part of a stage, which recipes and flags fill in."""

from __future__ import annotations

from fastrl.config.alarm import AlarmConfig
from fastrl.config.answer import AnswerConfig
from fastrl.config.base import (
    AdapterConfig,
    Attention,
    BackboneConfig,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    PromptedConfig,
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
from fastrl.config.hard_set import HardSetConfig, SamplingConfig
from fastrl.config.intervene import InterveneConfig, ProposalConfig, StepsConfig
from fastrl.config.labels import LabelConfig
from fastrl.config.options import differences, field_names, get_option, with_option
from fastrl.config.pipeline import PipelineConfig, pipeline_class, references, resolved
from fastrl.config.reward_model import LoraConfig, RewardModelConfig, RubricLossConfig
from fastrl.config.rl import EvalConfig, RewardConfig, RlConfig, RolloutConfig, derived
from fastrl.config.sections import in_use
from fastrl.config.sft import SftConfig
from fastrl.config.subset import SubsetConfig
from fastrl.config.transfer import TransferConfig
from fastrl.config.uplift import UpliftConfig
from fastrl.kernels.config import LossConfig

__all__ = [
    "STAGES", "AdapterConfig", "AlarmConfig", "AnswerConfig", "Attention", "BackboneConfig",
    "CheckpointConfig", "Config", "CptConfig", "DataConfig", "EngineConfig", "EvalConfig", "ExecutorConfig",
    "FaithfulnessConfig", "GroupsConfig", "HardSetConfig", "InterveneConfig",
    "LabelConfig", "Learns", "LoraConfig", "LossConfig", "ModelConfig", "PipelineConfig",
    "ProgramConfig", "PromptedConfig", "ProposalConfig", "ReceiverEngineConfig", "Recipe", "RewardConfig",
    "RewardModelConfig", "RlConfig", "RolloutConfig", "RubricLossConfig", "RunConfig",
    "SamplingConfig", "SftConfig", "StepsConfig", "SubsetConfig", "TextConfig", "TrainConfig",
    "TransferConfig", "UpliftConfig", "WriterConfig", "check_at_least", "check_positive", "derived",
    "differences", "field_names", "get_option", "in_use", "microbatch_tokens", "pipeline_class",
    "references", "refuse", "resolved", "with_option",
]  # fmt: skip

Learns = RlConfig | SftConfig | CptConfig | RewardModelConfig
"""The stages that train a model."""
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
