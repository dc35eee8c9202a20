"""The table of renamed and removed options.

An old name in a recipe or a flag is an error that gives the new name; in a run folder it is translated. A
removed option at its default is dropped from both, since it changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fastrl.config.pipeline import PipelineConfig


@dataclass(frozen=True, slots=True)
class Removed:
    """A removed option."""

    default: object
    """The value at which it had no effect."""
    why: str
    """Reason for the removal, for the error message."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A renamed option."""

    to: str
    """The new dotted name."""


Row = Removed | Renamed

FROZEN = {
    "rl": (
        "transfer.receiver", "uplift.executor.model", "eval.faithfulness.judge.model",
        "eval.faithfulness.second_judge.model",
    ),
    "groups": ("writer.model", "judge.model", "executor.model"),
    "hard_set": ("model",), "intervene": ("model",), "subset": ("model",),
}  # fmt: skip
"""Sections of frozen models, by stage."""
TRAINING = {
    "attention": "auto", "share_prefixes": True, "gradient_checkpointing": False, "lora.rank": 0,
    "lora.alpha": 32.0, "lora.target_modules": [],
}  # fmt: skip
"""Training options that these sections had, with their defaults."""
IS_FROZEN = "this model is frozen, and the option is one of training"

TABLE: dict[str, dict[str, Row]] = {
    stage: {
        f"{model}.{option}": Removed(default, IS_FROZEN)
        for model in models
        for option, default in TRAINING.items()
    }
    for stage, models in FROZEN.items()
}
TABLE["reward_model"] = {
    f"model.{option}": Removed(TRAINING[option], "the section lora is this stage's")
    for option in ("lora.rank", "lora.alpha", "lora.target_modules")
}
TABLE["rl"] |= {
    f"alarm.{old}": Renamed(f"alarm.{new}")
    for old, new in {
        "keep_entropy": "min_entropy_ratio", "most_clipped": "max_clipped_fraction",
        "most_common": "max_common_share", "keep_agreement": "min_agreement_ratio", "least_ess": "min_ess",
        "most_log_ratio": "max_log_ratio",
    }.items()
}  # fmt: skip
ENGINES = {
    "rl": (
        "engine", "transfer.engine", "uplift.executor.engine", "eval.faithfulness.judge.engine",
        "eval.faithfulness.second_judge.engine",
    ),
    "groups": ("writer.engine", "judge.engine", "executor.engine"),
    "hard_set": ("engine",), "intervene": ("engine",), "subset": ("engine",),
}  # fmt: skip
"""Sections of engine options, by stage."""
TABLE["rl"]["transfer.early_stop"] = Removed(False, "it made no step faster where it was measured")
for _stage, _sections in ENGINES.items():
    TABLE[_stage] |= {
        f"{section}.keep_prompts": Removed(False, "it made no step faster where it was measured")
        for section in _sections
    }

GRADING = {"rl": "reward", "hard_set": "grading", "intervene": "grading", "subset": "grading"}
"""Sections that held the grader's options, by stage."""
for _stage, _section in GRADING.items():
    TABLE[_stage] |= {
        f"{_section}.answer_timeout_s": Renamed("answer.timeout_s"),
        f"{_section}.answer_workers": Renamed("answer.workers"),
    }

PROMPTS = {
    "rl": ("data", *FROZEN["rl"]), "groups": FROZEN["groups"], "sft": ("data",), "hard_set": ("data",),
    "intervene": ("data",), "subset": ("data",),
}  # fmt: skip
"""Sections with a chat template, by stage; the option has TRL's name now."""
for _stage, _sections in PROMPTS.items():
    TABLE.setdefault(_stage, {}).update(
        {f"{section}.template_kwargs": Renamed(f"{section}.chat_template_kwargs") for section in _sections}
    )
for _stage in ("reward_model", "groups"):
    TABLE[_stage]["data.template_kwargs"] = Removed({}, f"stage {_stage} writes no prompts of data's rows")
for _stage in ("sft", "cpt", "reward_model"):
    TABLE.setdefault(_stage, {})["schedule"] = Renamed("train.lr_scheduler_type")
for _stage in ("sft", "cpt"):
    TABLE[_stage]["final_share"] = Renamed("train.min_lr_rate")

MOVED = {"fastrl.tiny.faithful": "fastrl.tiny.weak.faithful"}
"""Moved modules, which an option's dotted path may name."""
FUNCTIONS = {
    "rl": (
        "reward.functions", "eval.faithfulness.corrupt", "eval.faithfulness.checker",
        "eval.faithfulness.strategy",
    )
}  # fmt: skip
"""Options that name a function by its dotted path, by stage."""
MISSING = object()


def today(data: Mapping[str, Any], *, stored: bool) -> dict[str, Any]:
    """Return a configuration's nested options under their current names.

    Args:
        data: nested options of a stage or a pipeline, as read from YAML.
        stored: the data is from a run folder, so old names are translated. Otherwise they are errors.
    Raises:
        ValueError: names every old option, with its new name or why it was removed.
    """
    problems: list[str] = []
    if data.get("stage") == "pipeline":
        options = {
            name: stage_today(value, stored, f"{name}.", problems) if isinstance(value, Mapping) else value
            for name, value in data.items()
        }
    else:
        options = stage_today(data, stored, "", problems)
    if problems:
        raise ValueError(f"[recipe] {'; '.join(problems)}")
    return options


def stage_today(data: Mapping[str, Any], stored: bool, path: str, problems: list[str]) -> dict[str, Any]:
    """Return one stage's options under their current names; append what can't be translated to `problems`."""
    stage, options = str(data.get("stage")), copy.deepcopy(dict(data))
    for old, row in TABLE.get(stage, {}).items():
        value = take(options, old)
        if value is MISSING or (isinstance(row, Removed) and value == row.default):
            continue
        if isinstance(row, Renamed) and stored:
            put(options, row.to, value)
        else:
            problems.append(problem(path, old, row))
    for name in FUNCTIONS.get(stage, ()):
        value = take(options, name)
        if value is not MISSING:
            now = moved(value)
            put(options, name, now)
            if now != value and not stored:
                problems.append(f"{path}{name}: expected {now!r}, its new name, got {value!r}")
    return options


def refuse_old_flags(config: Any, flags: Collection[str]) -> None:
    """Raise ValueError for flags of renamed or removed options, with the message of `today`."""
    stages = config.stages if isinstance(config, PipelineConfig) else {"": config}
    problems = []
    for name, stage in stages.items():
        path = f"{name}." if name else ""
        rows = TABLE.get(stage.stage, {})
        problems += [problem(path, old, row) for old, row in rows.items() if path + old in flags]
    if problems:
        raise ValueError(f"[recipe] {'; '.join(problems)}")


def problem(path: str, old: str, row: Row) -> str:
    if isinstance(row, Removed):
        return f"{path}{old}: expected it to be left out, since {row.why}"
    return f"{path}{old}: expected {path}{row.to}, its new name"


def moved(value: Any) -> Any:
    """Return a dotted path, or a list of them, with the current module names."""
    if isinstance(value, list):
        return [moved(path) for path in value]
    for old, new in MOVED.items():
        if isinstance(value, str) and value.startswith(f"{old}."):
            return new + value.removeprefix(old)
    return value


def take(options: Any, name: str) -> Any:
    """Remove an option, and sections left empty, from nested mappings; return its value, or MISSING."""
    first, _, rest = name.partition(".")
    if not isinstance(options, dict) or first not in options:
        return MISSING
    if not rest:
        return options.pop(first)
    value = take(options[first], rest)
    if value is not MISSING and not options[first]:
        del options[first]
    return value


def put(options: dict[str, Any], name: str, value: Any) -> None:
    """Set an option in nested mappings."""
    *path, last = name.split(".")
    for section in path:
        options = options.setdefault(section, {})
    options[last] = value
