"""Checks of a groups stage before a model is loaded: the file, its columns, writer, judge and executor."""

from __future__ import annotations

from collections.abc import Sequence

from fastrl.check.executor import check_sandbox
from fastrl.check.model import check_fits, check_model, load_tokenizer
from fastrl.check.rl import check_engine
from fastrl.config import GroupsConfig, WriterConfig, refuse
from fastrl.data.problems import Problem
from fastrl.methods.tracelift.groups.drafts import Draft, UnusableError
from fastrl.methods.tracelift.groups.given import CANDIDATES, given_drafts
from fastrl.methods.tracelift.groups.judge import judge_prompt
from fastrl.methods.tracelift.groups.seeds import Seed, read_seeds
from fastrl.methods.tracelift.groups.taxonomy import TAXONOMY
from fastrl.methods.tracelift.groups.written import writing_prompt


def check_groups(config: GroupsConfig) -> None:
    """Check the file for the chosen source of negatives, and the models that the stage uses.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    if not config.run.dir:
        refuse("run", "dir", "a folder for the groups", config.run.dir)
    if config.task == "code" and config.negatives == "calculator":
        refuse("groups", "negatives", "given or written for task code", config.negatives)
    seeds, dropped = read_seeds(config)
    if not seeds:
        causes = ", ".join(f"{cause} {number}" for cause, number in dropped.items())
        raise ValueError(f"[data] path: expected a usable problem in {config.data.path}, got none: {causes}")
    if config.negatives == "given" and not any(seed.row.get(CANDIDATES) for seed in seeds):
        refuse("groups", "negatives", f"a file with a column {CANDIDATES}", sorted(seeds[0].row))
    if config.negatives == "written":
        check_writer(config, seeds)
    if config.negatives == "written" or any(draft.judgment is None for draft in drafts(config, seeds)):
        check_judge(config, seeds)
    if config.executor.model.path:
        check_model("executor.model", config.executor.model)
        load_tokenizer("executor.model", config.executor.model)
        if config.task == "code":
            check_sandbox(config.executor.program, [config.data.path])
        if config.executor.task != config.task:
            refuse("executor", "task", f"{config.task}, as the groups' task is", config.executor.task)


def drafts(config: GroupsConfig, seeds: Sequence[Seed]) -> list[Draft]:
    """Return every trace that the file contains."""
    out = [seed.positive for seed in seeds]
    for seed in seeds if config.negatives == "given" else ():
        try:
            out += given_drafts(seed.row, config.task, f"problem {seed.problem_id}")
        except UnusableError:
            continue  # counted when groups are built
    return out


def check_writer(config: GroupsConfig, seeds: Sequence[Seed]) -> None:
    longest = max(TAXONOMY[config.task], key=lambda kind: len(TAXONOMY[config.task][kind].task))
    prompts = [writing_prompt(config.task, longest, seed.problem, seed.positive.text) for seed in seeds]
    check_model_and_engine("writer", config.writer, prompts)


def check_judge(config: GroupsConfig, seeds: Sequence[Seed]) -> None:
    prompts = [
        judge_prompt(config.task, seed.problem, seed.reference_solution, seed.positive.text) for seed in seeds
    ]
    check_model_and_engine("judge", config.judge, prompts)


def check_model_and_engine(section: str, config: WriterConfig, prompts: Sequence[str]) -> None:
    """Raise ValueError if the model is missing, its engine can't run, or the longest prompt does not fit."""
    check_engine(f"{section}.engine", config.engine)
    if config.engine.kind == "same":
        refuse(f"{section}.engine", "kind", "torch or vllm", config.engine.kind)
    problems = [
        Problem(index=index, messages=[{"role": "user", "content": prompt}], solution="")
        for index, prompt in enumerate(prompts)
    ]
    check_fits(
        f"{section}.model", config.model, problems, config.max_new_tokens, f"{section}.max_new_tokens",
        config.engine.max_batch_tokens, f"{section}.engine",
    )  # fmt: skip
