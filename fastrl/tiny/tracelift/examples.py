"""Training examples of planner and executors, and problems with judged traces, as JSONL rows."""

from __future__ import annotations

from random import Random
from typing import Any

from fastrl.tiny.tracelift.config import LiftConfig
from fastrl.tiny.tracelift.judge import hurt_by, hurt_in, judged
from fastrl.tiny.tracelift.perturb import CODE, MATH, Kind, explicit_lines, perturb, places, trace_of_solution
from fastrl.tiny.tracelift.task import PROMPT, PROMPT_WITH_TRACE, answer, question, task_row
from fastrl.tiny.world.examples import generator_row
from fastrl.tiny.world.notation import Style
from fastrl.tiny.world.task import Chain
from fastrl.tiny.world.traces import work
from fastrl.types import Task

SHOWN = ("none", "explicit", "leap", "partial", "flawed")
CONTRADICTS: tuple[Kind, ...] = ("misread_start", "operand", "operator", "start")
WORKED: tuple[tuple[str, Style, float], ...] = (
    ("private", "private", 0.0),
    ("private_slip", "private", 0.3),
    ("leap", "leap", 0.0),
    ("leap_slip", "leap", 0.3),
    ("slips", "explicit", 0.3),
)
"""Traces as planners write them, added to the perturbed ones: (kind, style, slip rate)."""


def draw_task(config: LiftConfig, random: Random) -> Task:
    return "code" if random.random() < config.code_share else "math"


def planner_row(config: LiftConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """Return a problem of either task with the generator's trace, without its answer."""
    prompt = question(draw_task(config, random), chain)
    solution = generator_row(config.world, chain, random)["completion"]
    return {"prompt": prompt, "completion": trace_of_solution(solution)}


def executor_row(config: LiftConfig, chain: Chain, random: Random) -> dict[str, Any]:
    """Return a problem of either task, usually with a legible trace, and only the answer."""
    task = draw_task(config, random)
    (shown,) = random.choices(SHOWN, weights=config.executor_shares)
    trace = shown_trace(chain, shown, random)
    template = PROMPT if trace is None else PROMPT_WITH_TRACE
    prompt = template.format(question=question(task, chain), trace=trace)
    return {"prompt": prompt, "completion": answer(task, chain)}


def shown_trace(chain: Chain, shown: str, random: Random) -> str | None:
    if shown == "none":
        return None
    if shown == "leap":
        return trace_of_solution(work(chain, random, style="leap"))
    if shown == "explicit":
        return "\n".join(explicit_lines(chain))
    kind = (
        "no_conclusion" if shown == "partial" else random.choice([k for k in CONTRADICTS if places(chain, k)])
    )
    return perturb(chain, kind, random.choice(places(chain, kind)), random).text


def seed_row(config: LiftConfig, task: Task, chain: Chain, random: Random) -> dict[str, Any]:
    """Return a problem with its right trace and flawed ones, all judged, for `negatives: given` of groups.

    The reference solution is the right trace with its boxed answer, or the program.
    """
    right = "\n".join(explicit_lines(chain))
    candidates = perturbed(config, task, chain, random) + worked(task, chain, random)
    random.shuffle(candidates)  # the order must not reveal the kind
    solution = f"{right}\n\\boxed{{{chain.answer}}}" if task == "math" else answer(task, chain)
    return task_row(task, chain, config.num_tests, config.world.seed) | {
        "reference_solution": solution,
        "positive": judged(task, right, {}),
        "candidates": candidates,
    }


def perturbed(config: LiftConfig, task: Task, chain: Chain, random: Random) -> list[dict[str, Any]]:
    """Return num_perturbed traces of different kinds."""
    kinds = [kind for kind in (MATH if task == "math" else CODE) if places(chain, kind)]
    rows = []
    for kind in random.sample(kinds, min(config.num_perturbed, len(kinds))):
        flawed = perturb(chain, kind, random.choice(places(chain, kind)), random)
        row = judged(task, flawed.text, hurt_by(task, chain, flawed))
        rows.append(row | {"negative_kind": kind, "place": flawed.place})
    return rows


def worked(task: Task, chain: Chain, random: Random) -> list[dict[str, Any]]:
    """Return one trace of each kind in WORKED; a slipping kind without a slip is left out."""
    rows = []
    for kind, style, slip_rate in WORKED:
        text = trace_of_solution(work(chain, random, style=style, slip_rate=slip_rate))
        slipped = text != trace_of_solution(work(chain, random, style=style))
        if slipped == (slip_rate > 0):
            row = judged(task, text, hurt_in(task, chain, text))
            rows.append(row | {"negative_kind": kind, "place": (0, len(text))})
    return rows
