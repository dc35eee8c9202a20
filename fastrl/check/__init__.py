"""Checks of a configuration before a model is loaded: files, columns, folders, lengths, packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from fastrl.check.adapters import check_adapters, check_layers_to_adapt
from fastrl.check.faithfulness import check_trained_faithfulness
from fastrl.check.groups import check_groups
from fastrl.check.intervene import check_hard_set, check_intervene
from fastrl.check.model import check_fits, check_model, load_tokenizer
from fastrl.check.reward_model import check_reward_model
from fastrl.check.rl import check_rl
from fastrl.check.subset import check_subset
from fastrl.check.supervised import check_cpt, check_sft
from fastrl.config import (
    BackboneConfig,
    Config,
    CptConfig,
    GroupsConfig,
    HardSetConfig,
    InterveneConfig,
    Learns,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    SubsetConfig,
    refuse,
)
from fastrl.engine.build import choose_device
from fastrl.policy.eight_bit import check_torchao
from fastrl.policy.model import choose_attention
from fastrl.policy.prefix_attention import PREFIX
from fastrl.report.trackers import check_trackers

__all__ = ["check_config", "check_fits", "check_model", "check_ranks", "load_tokenizer"]


def check_config(config: Config) -> None:
    """Check everything about a stage that can be checked without loading a model.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    device = choose_device(config.run)
    if isinstance(config, Learns):
        warn_of_unshared_prefixes(config.model, choose_attention(config.model, device))
        check_torchao(config.train)
    check_run_options(config)
    check_trackers(config.run.report_to)
    check_adapters(config)
    CHECKS[type(config)](config)
    check_layers_to_adapt(config)
    if isinstance(config, RlConfig):
        check_trained_faithfulness(config)


def warn_of_unshared_prefixes(model: BackboneConfig, attention: str) -> None:
    """Warn if model.share_prefixes does nothing, as with the attention that auto takes on a GPU."""
    if model.share_prefixes and attention != PREFIX:
        warnings.warn(
            f"[model] share_prefixes: does nothing with the attention {attention}, so common prompts are "
            "computed once per sequence; model.attention prefix shares them",
            stacklevel=3,
        )


def check_ranks(config: Config, num_ranks: int) -> None:
    """Raise ValueError for train.offload on one rank, which offloads nothing; warn of train.shard there."""
    if not isinstance(config, Learns) or num_ranks > 1 or not config.train.shard:
        return
    if config.train.offload:
        refuse("train", "offload", "false on one rank, which keeps all weights on its device", True)
    warnings.warn("[train] shard: does nothing on one rank; start several with torchrun", stacklevel=2)


def check_run_options(config: Config) -> None:
    """Raise ValueError if a run option is set in a stage that does not support it."""
    for name, default, supporting in (("keep_best", "", RlConfig), ("async_save", False, Learns)):
        value = getattr(config.run, name)
        if value != default and not isinstance(config, supporting):
            refuse("run", name, f"{default!r} in a stage of {config.stage}", value)


CHECKS: dict[type[Any], Callable[[Any], None]] = {
    RlConfig: check_rl,
    SftConfig: check_sft,
    CptConfig: check_cpt,
    RewardModelConfig: check_reward_model,
    GroupsConfig: check_groups,
    HardSetConfig: check_hard_set,
    InterveneConfig: check_intervene,
    SubsetConfig: check_subset,
}
