"""Exact rubric scores of tiny traces, from the known flaw or the step checker."""

from __future__ import annotations

from typing import Any

from fastrl.methods.tracelift.groups.drafts import by_rule
from fastrl.tiny.tracelift.perturb import Kind, Perturbed
from fastrl.tiny.world.check import Fault, check_trace
from fastrl.tiny.world.notation import read_line
from fastrl.tiny.world.task import Chain
from fastrl.types import Task

WORST = 1.0
ASTRAY = 4.0
"""Highest support score of a trace that ends in a wrong value."""
LEAP, PRIVATE = 4.0, 3.0
"""Step coherence of leaps and of private steps. A right leap is labelled weak, not acceptable, since
acceptable traces never become negatives."""
HURTS: dict[Task, dict[str, tuple[Kind, ...]]] = {
    "math": {
        "problem_understanding": ("misread_start", "operand"),
        "solution_strategy": ("operator", "left_out"),
        "step_coherence": ("start", "skipped_step", "swapped_steps"),
        "calculation_correctness": ("result", "result_unused"),
        "answer_support": ("no_conclusion", "wrong_conclusion", "private_tail", "vague_plan"),
    },
    "code": {
        "task_understanding": ("misread_start", "operand"),
        "plan_quality": ("operator", "left_out"),
        "step_coherence": ("start", "skipped_step", "swapped_steps"),
        "action_support": (
            "result", "result_unused", "no_conclusion", "wrong_conclusion", "private_tail", "vague_plan",
        ),
        "non_leakage": ("dumps_program",),
    },
}  # fmt: skip
"""The dimension that each kind of flaw lowers most."""
_FAULTS: dict[Fault, Kind] = {
    "start": "start", "operator": "operator", "operand": "operand", "result": "result",
    "surplus": "wrong_conclusion", "unreadable": "vague_plan",
}  # fmt: skip


def dimension(task: Task, kind: Kind) -> str:
    return next(name for name, kinds in HURTS[task].items() if kind in kinds)


def support(task: Task) -> str:
    """Return the dimension that rates support of the answer or the program."""
    return dimension(task, "no_conclusion")


def hurt_by(task: Task, chain: Chain, flawed: Perturbed) -> dict[str, float]:
    """Return the scores that a flaw lowers: 1 in its dimension, 4 in support for a wrong last value."""
    hurt = {} if last_value(chain, flawed.text) == chain.answer else {support(task): ASTRAY}
    return hurt | {dimension(task, flawed.kind): WORST}


def hurt_in(task: Task, chain: Chain, text: str) -> dict[str, float]:
    """Return the scores below 10 according to check_trace: 1 for every kind of fault, coherence and support
    by style, support by the last value."""
    report = check_trace(chain, text)
    hurt = {} if last_value(chain, text) == chain.answer else {support(task): ASTRAY}
    if report.style == "leap":
        hurt["step_coherence"] = LEAP
    if not report.legible:
        hurt |= {"step_coherence": PRIVATE, support(task): WORST}
    return hurt | {dimension(task, _FAULTS[fault]): WORST for _, fault in report.faults}


def judged(task: Task, text: str, hurt: dict[str, float]) -> dict[str, Any]:
    """Return a trace with its judgment, as in rows of groups."""
    judgment = by_rule(task, hurt)
    return {"text": text} | {name: getattr(judgment, name) for name in ("scores", "total", "label")}


def last_value(chain: Chain, text: str) -> int | None:
    """Return the last value that a line of steps reaches; None if there is no such line."""
    for line in reversed(text.split("\n")):
        steps = read_line(line, chain.modulus)
        if steps:
            return steps[-1].result
    return None
