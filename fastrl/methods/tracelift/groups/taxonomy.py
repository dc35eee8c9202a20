"""Kinds of flaws that a model is asked to write, each lowering one dimension of the rubric."""

from __future__ import annotations

from dataclasses import dataclass

from fastrl.types import Task


@dataclass(frozen=True, slots=True)
class WrittenKind:
    """A kind of flaw that a model writes."""

    dimension: str
    """The dimension that it lowers."""
    task: str
    """Instruction to the writer."""


TAXONOMY: dict[Task, dict[str, WrittenKind]] = {
    "math": {
        "wrong_quantity_read": WrittenKind(
            "problem_understanding",
            "At one place read a quantity of the problem wrongly: another number, or the number of another "
            "thing. Calculate on from the misread quantity.",
        ),
        "missing_condition": WrittenKind(
            "problem_understanding",
            "Overlook one condition of the problem, and leave out the step that takes it into account. "
            "Calculate on without it.",
        ),
        "wrong_operation": WrittenKind(
            "solution_strategy",
            "At one step use a wrong operation or a wrong plan (add where a product is needed, take the part "
            "for the whole). Calculate on from what it gives.",
        ),
        "arithmetic_slip": WrittenKind(
            "calculation_correctness",
            "Make one slip of arithmetic, the kind that is made on paper. Calculate on from the wrong value.",
        ),
        "skipped_step": WrittenKind(
            "step_coherence",
            "Leave out one step that a later step needs, so that its value appears from nowhere. Change "
            "nothing else.",
        ),
        "order_mixup": WrittenKind(
            "step_coherence",
            "Put one step before the step that it builds on. Change nothing else.",
        ),
        "unit_mixup": WrittenKind(
            "step_coherence",
            "Mix up the unit of one intermediate value (minutes for hours, cents for dollars) and go on as "
            "if nothing had happened.",
        ),
        "wrong_conclusion": WrittenKind(
            "answer_support",
            "Keep every step right, and conclude with a value that answers another question than the one "
            "asked.",
        ),
        "no_conclusion": WrittenKind(
            "answer_support",
            "Stop before the step that gives what is asked for, without saying that anything is missing.",
        ),
    },
    "code": {
        "wrong_algorithm_choice": WrittenKind(
            "plan_quality",
            "Choose an algorithm that sounds right and fails on some inputs (greedy, say).",
        ),
        "complexity_ignored": WrittenKind(
            "plan_quality",
            "Replace the efficient idea by one that is far too slow for the limits, as if it were fast.",
        ),
        "edge_case_omitted": WrittenKind(
            "task_understanding",
            "Drop one special case that the task needs (empty input, ties, the largest value).",
        ),
        "io_misread": WrittenKind(
            "task_understanding",
            "Misread one detail of the input or of the output (order, indexing, what is to be printed).",
        ),
        "wrong_invariant": WrittenKind(
            "step_coherence",
            "State one invariant or recurrence wrongly (an index off by one, a wrong base), and build on it.",
        ),
        "incoherent_jump": WrittenKind(
            "step_coherence",
            "Replace one link of the argument by a jump: the conclusion stands there, and does not follow.",
        ),
        "vague_plan": WrittenKind(
            "action_support",
            "Replace the most concrete part of the plan by general advice that nobody could program from.",
        ),
        "dumps_final_code": WrittenKind(
            "non_leakage",
            "At one place write out the finished program, in place of the words that explain it.",
        ),
    },
}
