"""Checks of the faithfulness evaluation before a model is loaded: functions, problems, judges, lengths."""

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
    """Raise ValueError if an RL stage can't run the evaluation in its section eval.faithfulness."""
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
    """Raise ValueError if on several ranks only a judge uses vLLM.

    The first vLLM engine of a process creates process groups with all other ranks, but only one rank loads
    judges.
    """
    if any(engine.kind == "vllm" for engine in engines):
        return
    for name, judge in config.judges.items():
        if judge.engine.kind == "vllm":
            expected = "torch on several ranks, unless an engine that every rank has is vllm"
            refuse(f"faithfulness.{name}.engine", "kind", expected, judge.engine.kind)


def check_faithfulness(
    config: FaithfulnessConfig, data: DataConfig, path: str | None, section: str, model: CheckpointConfig,
    engine: EngineConfig, max_new_tokens: int,
) -> None:  # fmt: skip
    """Raise ValueError if the evaluation can't run.

    Args:
        data, path: see build_probes.
        section: section of the configuration that holds `model`.
        max_new_tokens: longest response. A judge is assumed to read it in as many of its own tokens; a longer
            one fails when the judge is queried.
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
    """Raise ValueError if the judge is missing, its engine can't run, or its context is too short.

    The context must hold the longest problem, one response (two if `pairs`) and a reply.
    """
    engine_section = f"{section}.engine"
    if judge.engine.kind == "same":
        refuse(engine_section, "kind", "torch or vllm", judge.engine.kind)
    check_engine(engine_section, judge.engine)
    batch_tokens = judge.engine.max_batch_tokens
    for template, responses in ((ALIGNMENT_PROMPT, 1), (DIFFERENCE_PROMPT, 2))[: 1 + pairs]:
        with_prompts = [
            replace(problem, messages=[{"role": "user", "content": question(template, problem)}])
            for problem in problems
        ]
        new = responses * max_new_tokens + judge.max_new_tokens
        names = f"{responses} x response + {section}.max_new_tokens"
        check_fits(f"{section}.model", judge.model, with_prompts, new, names, batch_tokens, engine_section)


def question(template: str, problem: Problem) -> str:
    """Return the judge's prompt with empty responses."""
    return filled(template, problem=problem.question, response="", first="", second="")
