"""The options that name data files, by stage, and the check that those files exist."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fastrl.config.cpt import CptConfig
from fastrl.config.groups import GroupsConfig
from fastrl.config.hard_set import HardSetConfig
from fastrl.config.intervene import InterveneConfig
from fastrl.config.options import get_option
from fastrl.config.pipeline import PipelineConfig
from fastrl.config.reward_model import RewardModelConfig
from fastrl.config.rl import RlConfig
from fastrl.config.sft import SftConfig
from fastrl.config.subset import SubsetConfig


@dataclass(frozen=True, slots=True)
class DataFile:
    """An option that names a file."""

    option: str
    """Dotted name of the option, such as data.path; in a pipeline the stage's name comes first."""
    holds: str
    """Content of the file's rows, for the error message."""
    example: str
    """Example of a file name, for the error message."""
    path: str | None = None
    """The option's value."""


WORLDS = ("tiny-world/", "smol-world/")
"""Folders that commands make: `fastrl tiny`, `fastrl smol`."""
PROBLEMS = "problems: a question, and a gold answer or tests, in each row"
SOLVED = "problems: a question, a gold answer and a worked solution in each row"
TALK = "conversations: `messages`, or `prompt` and `completion`, in each row"
TRAIN, TEST = DataFile("data.path", PROBLEMS, "problems.jsonl"), DataFile("eval.path", PROBLEMS, "test.jsonl")
ATTEMPTS = "failed attempts, as a hard_set stage leaves them"
GROUPS = "groups of traces, as `fastrl groups build` writes them"
TEXT = "raw text: a folder with .txt files, or rows with text"
FILES: dict[type, tuple[DataFile, ...]] = {
    RlConfig: (TRAIN, TEST, DataFile("eval.faithfulness.path", PROBLEMS, "faithfulness.jsonl")),
    SftConfig: (DataFile("data.path", TALK, "conversations.jsonl"),),
    CptConfig: (
        DataFile("data.path", TEXT, "texts.jsonl"),
        DataFile("held_out", TEXT, "held_out.jsonl"),
    ),
    RewardModelConfig: (
        DataFile("data.path", GROUPS, "groups.jsonl"),
        DataFile("eval_path", GROUPS, "held_out_groups.jsonl"),
    ),
    GroupsConfig: (TRAIN,),
    HardSetConfig: (replace(TRAIN, holds=SOLVED),),
    InterveneConfig: (DataFile("data.path", ATTEMPTS, "hard.jsonl"),),
    SubsetConfig: (TRAIN,),
}  # fmt: skip


def data_files(config: object) -> list[DataFile]:
    """Return the data files that the configuration of a stage, or of a pipeline's stages, names."""
    if isinstance(config, PipelineConfig):
        return [
            replace(file, option=f"{name}.{file.option}")
            for name, stage in config.stages.items()
            for file in data_files(stage)
        ]
    named = [replace(file, path=get_option(config, file.option)) for file in FILES[type(config)]]
    return [file for file in named if file.path is not None]


def check_files(config: object, recipe: str) -> None:
    """Raise an error if a data file of the recipe is missing, before anything is loaded.

    Args:
        recipe: name of the recipe on the command line.
    Raises: FileNotFoundError: one line that names every missing file and an example command.
    """
    missing = [file for file in data_files(config) if not is_there(file)]
    if not missing:
        return
    first = missing[0]
    section, _, name = first.option.rpartition(".")
    message = (
        f"[{section or getattr(config, 'stage', '')}] {name}: expected an existing file, got {first.path!r}"
    )
    unset = [file for file in missing if not str(file.path).startswith(WORLDS)]
    if unset:
        options: dict[str, list[str]] = {}
        for file in unset:
            options.setdefault(file.holds, []).append(file.option)
        wanted = "; ".join(f"{', '.join(names)} ({holds})" for holds, names in options.items())
        flags = " ".join(f"--{file.option} {file.example}" for file in unset)
        message += f"; set {wanted}, for example: fastrl train {recipe} {flags}"
    raise FileNotFoundError(message)


def is_there(file: DataFile) -> bool:
    """Return whether the file exists, is to come from the hub, or from an earlier stage of a pipeline."""
    path = str(file.path)
    return path.startswith(("@", "hub:")) or (path != "" and Path(path).exists())
