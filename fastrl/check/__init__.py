"""What can be known to be wrong before a model is loaded: files, columns, folders, lengths, packages."""

from __future__ import annotations

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
from fastrl.policy.model import choose_attention
from fastrl.report.trackers import check_trackers

__all__ = ["check_config", "check_fits", "check_model", "load_tokenizer"]


def check_config(config: Config) -> None:
    """Refuse what can't run, as early as it can be known.

    Raises:
        ValueError, FileNotFoundError: one line that names the field, what it takes and what it got.
    """
    device = choose_device(config.run)
    if isinstance(config, Learns):
        choose_attention(config.model, device)
    check_what_stages_can(config)
    check_trackers(config.run.report_to)
    check_adapters(config)
    CHECKS[type(config)](config)
    check_layers_to_adapt(config)
    if isinstance(config, RlConfig):
        check_trained_faithfulness(config)


def check_what_stages_can(config: Config) -> None:
    """What only some stages can do is not asked of another."""
    for name, default, able in (("keep_best", "", RlConfig), ("async_save", False, Learns)):
        asked = getattr(config.run, name)
        if asked != default and not isinstance(config, able):
            refuse("run", name, f"{default!r} in a stage of {config.stage}", asked)


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
