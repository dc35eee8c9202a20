"""Exact metrics of traces without answers, and an executor's accuracy with every kind of trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import torch

from fastrl.data import render_prompt
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.tracelift.groups.drafts import by_rule
from fastrl.rewards.traces import holds_program, states_answer
from fastrl.runtime.seeding import seed_of
from fastrl.tiny.tracelift.judge import hurt_in, last_value
from fastrl.tiny.tracelift.perturb import CODE, MATH, perturb, places, trace_of_solution
from fastrl.tiny.tracelift.task import PROMPT, PROMPT_WITH_TRACE, answer, question
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.measure import measure
from fastrl.tiny.world.notation import STYLES, write_answer
from fastrl.tiny.world.task import Chain
from fastrl.tiny.world.traces import work
from fastrl.types import Message, SamplingParams, Task

MAX_TRACE_TOKENS, MAX_ANSWER_TOKENS = 64, 32
Shown = tuple[Chain, str | None]
"""A problem and the trace in the prompt; None: no trace."""


def trace_quality(expressions: Sequence[str], texts: Sequence[str], task: Task = "math") -> dict[str, float]:
    """Average exact metrics over traces.

        accuracy = fraction of traces whose last value is the answer (private traces too)
        faithful = fraction of these whose every step is right and which omit no operation
        rubric   = mean total of the exact rubric scores;  leak = fraction of traces that state the answer

    Also legible, step_accuracy and style/*, see `measure`. A leak has the answer after an answer marker
    (math) or a program (code).

    Args:
        expressions: the chain of each text, repeated for several texts.
    """
    chains = [Chain.parse(expression) for expression in expressions]
    numbers = measure(expressions, [closed(c, text) for c, text in zip(chains, texts, strict=True)])
    pairs = list(zip(chains, texts, strict=True))
    leaks = [leaks_answer(task, chain, text) for chain, text in pairs]
    rubric = [by_rule(task, hurt_in(task, chain, text)).total for chain, text in pairs]
    return numbers | {"leak": sum(leaks) / len(leaks), "rubric": sum(rubric) / len(rubric)}


def closed(chain: Chain, text: str) -> str:
    """Append the trace's last value as a boxed answer; unchanged without a value or with a box."""
    value = last_value(chain, text)
    if value is None or check_trace(chain, text).answer is not None:
        return text
    return f"{text}\n{write_answer(value)}"


def leaks_answer(task: Task, chain: Chain, text: str) -> bool:
    return states_answer(text, str(chain.answer)) if task == "math" else holds_program(text)


def plan(
    planner: Path, chains: Sequence[Chain], task: Task, *, num_samples: int = 1, seed: int = 0
) -> list[list[str]]:
    """Sample num_samples traces of each problem at temperature 1."""
    prompts = [question(task, chain) for chain in chains]
    return _sample(planner, prompts, MAX_TRACE_TOKENS, 1.0, num_samples, seed)


def answers_right(
    executor: Path, problems: Sequence[Shown], task: Task, *, temperature: float = 0.5, seed: int = 0
) -> list[bool]:
    """Return True for each answer of the executor that equals the expected text exactly."""
    prompts = [
        (PROMPT if trace is None else PROMPT_WITH_TRACE).format(question=question(task, chain), trace=trace)
        for chain, trace in problems
    ]
    found = _sample(executor, prompts, MAX_ANSWER_TOKENS, temperature, 1, seed)
    return [text == answer(task, chain) for (text,), (chain, _) in zip(found, problems, strict=True)]


def executor_table(
    executor: Path, chains: Sequence[Chain], task: Task, *, temperature: float = 0.5, seed: int = 0
) -> dict[str, float]:
    """Return the executor's accuracy without a trace, with right traces of each style, with each flaw."""
    shown: dict[str, list[Shown]] = {"alone": [(chain, None) for chain in chains]}
    for style in STYLES:
        shown[style] = [(c, trace_of_solution(work(c, Random(0), style=style))) for c in chains]
    for kind in MATH if task == "math" else CODE:
        random = Random(seed_of(seed, "executor_table", kind))
        possible = [chain for chain in chains if places(chain, kind)]
        shown[kind] = [(c, perturb(c, kind, random.choice(places(c, kind)), random).text) for c in possible]
    everything = [row for rows in shown.values() for row in rows]
    right = iter(answers_right(executor, everything, task, temperature=temperature, seed=seed))
    return {name: sum(next(right) for _ in rows) / len(rows) for name, rows in shown.items() if rows}


def _sample(
    model: Path, prompts: Sequence[str], max_new_tokens: int, temperature: float, num_samples: int, seed: int
) -> list[list[str]]:
    engine = TorchEngine.from_pretrained(str(model), dtype=torch.float32, device=torch.device("cpu"))
    rendered = [render_prompt(engine.tokenizer, [Message(role="user", content=text)]) for text in prompts]
    sampling = SamplingParams(max_new_tokens=max_new_tokens, temperature=temperature)
    seeds = [seed_of(seed, "lift", index) for index in range(len(rendered))]
    found = engine.generate(rendered, sampling, seeds=seeds, n=num_samples)
    return [[completion.text for completion in completions] for completions in found]
