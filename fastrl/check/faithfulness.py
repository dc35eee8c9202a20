"""Faithfulness, before a model is loaded: the functions, the problems, and what model and judges can hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from fastrl.check.model import check_fits, load_tokenizer
from fastrl.check.rl import check_engine
from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    FaithfulnessConfig,
    RlConfig,
    WriterConfig,
    refuse,
)
from fastrl.config.engines import engine_table
from fastrl.data.problems import Problem
from fastrl.data.prompts import encode_inside
from fastrl.methods.weak.build import build_probes
from fastrl.methods.weak.judge import ALIGNMENT_PROMPT, DIFFERENCE_PROMPT, filled


def check_trained_faithfulness(config: RlConfig) -> None:
    """eval.faithfulness of an RL stage."""
    own = config.eval.faithfulness
    if own.enabled and config.uses_uplift and "answer" not in config.reward.functions:
        expected = "false, since the policy writes traces and an executor answers"
        refuse("faithfulness", "enabled", expected, own.enabled)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        engines = [entry.engine for entry in engine_table(config).values() if entry.phase != "judge"]
        check_judges_start(own, engines)
    check_faithfulness(
        own,
        config.data,
        config.eval.path,
        "model",
        config.model,
        config.engine,
        config.rollout.max_new_tokens,
    )


def check_judges_start(config: FaithfulnessConfig, engines: Sequence[EngineConfig]) -> None:
    """The first vLLM of a process forms its groups with those of all other ranks, and one rank alone loads
    judges."""
    if any(engine.kind == "vllm" for engine in engines):
        return
    for name, judge in config.judges.items():
        if judge.engine.kind == "vllm":
            expected = "torch on several ranks, unless an engine that all of them have is vllm"
            refuse(f"faithfulness.{name}.engine", "kind", expected, judge.engine.kind)


def check_faithfulness(
    config: FaithfulnessConfig, data: DataConfig, path: str | None, section: str, model: CheckpointConfig,
    engine: EngineConfig, max_new_tokens: int,
) -> None:  # fmt: skip
    """Refuse what can't be measured.

    Args:
        data, path: see build_probes.
        section: where the configuration has `model`.
        max_new_tokens: of a response. A judge reads it in about as many tokens of its own; one that does not
            fit after all is an error when it is asked.
    """
    probes = build_probes(config, data, path)
    if probes is None:
        return
    if config.probes:
        forced = (
            len(encode_inside(load_tokenizer(section, model), config.forcing_text)) + config.answer_tokens
        )
        new = max_new_tokens + max(config.slack_tokens, forced)
        names = "response + faithfulness.slack_tokens or forcing_text and answer_tokens"
        check_fits(section, model, probes.problems, new, names, engine.max_batch_tokens, data=data)
    for name, judge in config.judges.items():
        pairs = config.diversity and config.strategy is None and name == "judge"
        check_judge(f"faithfulness.{name}", judge, probes.problems, max_new_tokens, pairs)


def check_judge(
    section: str, judge: WriterConfig, problems: Sequence[Problem], max_new_tokens: int, pairs: bool
) -> None:
    """The judge is there, its engine can run, and both hold the longest problem, one response to it (or two,
    where it compares pairs), and a reply."""
    if judge.engine.kind == "same":
        refuse(f"{section}.engine", "kind", "torch or vllm", judge.engine.kind)
    check_engine(f"{section}.engine", judge.engine)
    room, where = judge.engine.max_batch_tokens, f"{section}.engine"
    for template, responses in ((ALIGNMENT_PROMPT, 1), (DIFFERENCE_PROMPT, 2))[: 1 + pairs]:
        asked = [
            replace(problem, messages=[{"role": "user", "content": question(template, problem)}])
            for problem in problems
        ]
        new = responses * max_new_tokens + judge.max_new_tokens
        names = f"{responses} x response + {section}.max_new_tokens"
        check_fits(f"{section}.model", judge.model, asked, new, names, room, where)


def question(template: str, problem: Problem) -> str:
    """What the judge reads, without responses."""
    return filled(template, problem=problem.question, response="", first="", second="")
