"""Checks of hard-set and intervene stages before a model is loaded: files, columns, lengths, engines."""

from __future__ import annotations

from fastrl.check.model import check_fits, check_model, load_tokenizer
from fastrl.check.rl import check_engine
from fastrl.config import HardSetConfig, InterveneConfig, refuse
from fastrl.data.problems import load_problems
from fastrl.methods.interventions.problems import read_hard_set
from fastrl.stages.hard_set import with_references


def check_hard_set(config: HardSetConfig) -> None:
    """Check a hard-set stage.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    check_engine("engine", config.engine)
    problems = [problem for problem, _ in with_references(load_problems(config.data), config)]
    new_tokens, room = config.sampling.max_new_tokens, config.engine.max_batch_tokens
    check_fits("model", config.model, problems, new_tokens, "sampling.max_new_tokens", room, data=config.data)


def check_intervene(config: InterveneConfig) -> None:
    """Check an intervene stage.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    check_engine("engine", config.engine)
    positions = check_model("model", config.model)
    load_tokenizer("model", config.model, config.data)
    batch_tokens = config.engine.max_batch_tokens
    room = batch_tokens if positions is None else min(positions, batch_tokens)
    if config.proposal.verify_tokens >= room:
        refuse(
            "proposal", "verify_tokens", f"< {room}, the limit of the model and engine.max_batch_tokens",
            config.proposal.verify_tokens,
        )  # fmt: skip
    read_hard_set(config.data)
