"""Sections that a recipe may leave unused: what uses each, and how an option of an unused one is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from fastrl.config.base import refuse
from fastrl.config.options import differences, get_option, with_option
from fastrl.config.pipeline import PipelineConfig
from fastrl.config.rl import RlConfig

REWARDS = {"transfer": ("transfer",), "uplift": ("uplift", "rubric"), "labels": ("label",)}
"""Sections of an RL stage, and the rewards that read each."""
FAITHFULNESS = "eval.faithfulness"
ENABLED = f"{FAITHFULNESS}.enabled"
FUNCTIONS = "reward.functions"
T = TypeVar("T")


def unused_sections(config: Any, flags: Mapping[str, list[str]] | None = None) -> dict[str, str]:
    """Return {section: what would use it} for the sections that nothing uses; a stage's name stands before
    its sections in a pipeline.

    Args:
        flags: words of command-line flags, which may name more rewards than the configuration does.
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
    """The flags of one stage of a pipeline, as that stage alone would take them."""
    return {
        flag.removeprefix(f"{name}."): words for flag, words in flags.items() if flag.startswith(f"{name}.")
    }


def is_in(option: str, sections: Iterable[str]) -> str | None:
    """The section that an option is in. None: it is in none, or it is the switch that uses the section."""
    if option.endswith(ENABLED):
        return None
    return next((section for section in sections if option.startswith(f"{section}.")), None)


def never_used(config: Any, flags: Mapping[str, list[str]]) -> dict[str, str]:
    """As unused_sections, of those that neither the configuration nor it with the flags uses."""
    after = unused_sections(config, flags)
    return {section: needed for section, needed in unused_sections(config).items() if section in after}


def refuse_unused(config: Any, flags: Mapping[str, list[str]]) -> None:
    """Refuse options, of a recipe or of flags, that neither the recipe nor recipe and flags together use.

    Raises: ValueError: names the option and what would use it.
    """
    unused = never_used(config, flags)
    for option in (*flags, *set_options(config, unused)):
        section = is_in(option, unused)
        if section is not None:
            switch = unused[section].split()[0]
            got = flags.get(switch, get_option(config, switch))
            name = option.removeprefix(f"{section}.")
            refuse(section, name, f"{unused[section]}, which alone uses this option", got)


def set_options(config: Any, sections: Collection[str]) -> list[str]:
    """Dotted names of the options in these sections that are not at their defaults."""
    found = []
    for section in sections:
        now = get_option(config, section)
        found += [f"{section}.{name}" for name in differences(now, type(now)())]
    return found


def in_use(config: T) -> T:
    """The configuration with the sections that nothing uses at their defaults."""
    for section in unused_sections(config):
        default: Any = type(get_option(config, section))()
        config = with_option(config, section, default)
    return config


def without_unused(options: dict[str, Any], config: Any) -> dict[str, Any]:
    """A configuration's nested options, less the unused sections that are at their defaults."""
    for section in unused_sections(config):
        if set_options(config, [section]):
            continue
        *path, last = section.split(".")
        inside = options
        for name in path:
            inside = inside[name]
        del inside[last]
    return options
