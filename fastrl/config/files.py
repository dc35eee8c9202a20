"""The options that name files of data: which each stage has, what such a file holds, which are not there."""

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
    """Its dotted name, such as data.path; in a pipeline with the stage's before it."""
    holds: str
    """What the rows of the file are."""
    example: str
    """A name that such a file may have."""
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
    """Return the files that a stage, or the stages of a pipeline, are told to read."""
    if isinstance(config, PipelineConfig):
        return [
            replace(file, option=f"{name}.{file.option}")
            for name, stage in config.stages.items()
            for file in data_files(stage)
        ]
    named = [replace(file, path=get_option(config, file.option)) for file in FILES[type(config)]]
    return [file for file in named if file.path is not None]


def check_files(config: object, recipe: str) -> None:
    """Refuse a recipe whose files are not there, before anything is loaded; names them all and an example.

    Args:
        recipe: as it was named on the command line.
    Raises: FileNotFoundError: one line.
    """
    missing = [file for file in data_files(config) if not is_there(file)]
    if not missing:
        return
    first = missing[0]
    section, _, name = first.option.rpartition(".")
    message = (
        f"[{section or getattr(config, 'stage', '')}] {name}: expected an existing file, got {first.path!r}"
    )
    asked = [file for file in missing if not str(file.path).startswith(WORLDS)]
    if asked:
        options: dict[str, list[str]] = {}
        for file in asked:
            options.setdefault(file.holds, []).append(file.option)
        wanted = "; ".join(f"{', '.join(names)} ({holds})" for holds, names in options.items())
        flags = " ".join(f"--{file.option} {file.example}" for file in asked)
        message += f"; set {wanted}, for example: fastrl train {recipe} {flags}"
    raise FileNotFoundError(message)


def is_there(file: DataFile) -> bool:
    """Return whether the file exists, or an earlier stage of a pipeline leaves it behind."""
    path = str(file.path)
    return path.startswith("@") or (path != "" and Path(path).exists())
