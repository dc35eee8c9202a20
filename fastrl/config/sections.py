"""Sections that only some rewards use: which are unused, and the error for an option of an unused one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from fastrl.config.base import refuse
from fastrl.config.options import differences, get_option, with_option
from fastrl.config.pipeline import PipelineConfig
from fastrl.config.rl import RlConfig

REWARDS = {"transfer": ("transfer",), "uplift": ("uplift", "rubric"), "labels": ("label",)}
"""Sections of an RL stage, and the rewards that use them."""
FAITHFULNESS = "eval.faithfulness"
ENABLED = f"{FAITHFULNESS}.enabled"
FUNCTIONS = "reward.functions"
T = TypeVar("T")


def unused_sections(config: Any, flags: Mapping[str, list[str]] | None = None) -> dict[str, str]:
    """Return {section: option that would use it} for the unused sections.

    In a pipeline the stage's name precedes both.

    Args:
        flags: words after each command-line flag, which may name more rewards than the configuration does.
    """
    flags = flags or {}
    if isinstance(config, PipelineConfig):
        return {
            f"{name}.{section}": f"{name}.{needed}"
            for name, stage in config.stages.items()
            for section, needed in unused_sections(stage, of_stage(flags, name)).items()
        }
    if not isinstance(config, RlConfig):
        return {}
    functions = flags.get(FUNCTIONS, config.reward.functions)
    unused = {
        section: f"{FUNCTIONS} with {' or '.join(rewards)}"
        for section, rewards in REWARDS.items()
        if not set(rewards) & set(functions)
    }
    enabled = [word.lower() for word in flags.get(ENABLED, [str(config.eval.faithfulness.enabled)])]
    return unused if enabled == ["true"] else {**unused, FAITHFULNESS: f"{ENABLED} true"}


def of_stage(flags: Mapping[str, list[str]], name: str) -> dict[str, list[str]]:
    """Return the flags of one stage of a pipeline, without the stage's name."""
    return {
        flag.removeprefix(f"{name}."): words for flag, words in flags.items() if flag.startswith(f"{name}.")
    }


def is_in(option: str, sections: Iterable[str]) -> str | None:
    """Return the section of an option, or None if it is in none or is the switch that enables a section."""
    if option.endswith(ENABLED):
        return None
    return next((section for section in sections if option.startswith(f"{section}.")), None)


def never_used(config: Any, flags: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the unused sections that stay unused with the flags, in the form of unused_sections."""
    after = unused_sections(config, flags)
    return {section: needed for section, needed in unused_sections(config).items() if section in after}


def refuse_unused(config: Any, flags: Mapping[str, list[str]]) -> None:
    """Raise ValueError for an option that is set in an unused section; the message says what would use it."""
    unused = never_used(config, flags)
    for option in (*flags, *set_options(config, unused)):
        section = is_in(option, unused)
        if section is not None:
            switch = unused[section].split()[0]
            got = flags.get(switch, get_option(config, switch))
            name = option.removeprefix(f"{section}.")
            refuse(section, name, f"{unused[section]}, since nothing else uses this option", got)


def set_options(config: Any, sections: Collection[str]) -> list[str]:
    """Return the dotted names of the options in these sections that are not at their defaults."""
    found = []
    for section in sections:
        now = get_option(config, section)
        found += [f"{section}.{name}" for name in differences(now, type(now)())]
    return found


def in_use(config: T) -> T:
    """Return the configuration with the unused sections at their defaults."""
    for section in unused_sections(config):
        default: Any = type(get_option(config, section))()
        config = with_option(config, section, default)
    return config


def without_unused(options: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return a configuration's nested options without the unused sections that are at their defaults."""
    for section in unused_sections(config):
        if set_options(config, [section]):
            continue
        *path, last = section.split(".")
        inside = options
        for name in path:
            inside = inside[name]
        del inside[last]
    return options
