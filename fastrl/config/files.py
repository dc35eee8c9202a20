"""The options that name files of data: which each stage has, and what such a file holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


PROBLEMS = "problems: a question and a gold answer in each row"
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
