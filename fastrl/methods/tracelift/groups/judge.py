"""The judge: a model that scores a trace in five dimensions and overall, with label and reason, as JSON."""

from __future__ import annotations

import json
from typing import Any

from fastrl.methods.tracelift.groups.asking import Request
from fastrl.methods.tracelift.groups.drafts import LABELS, Judgment, UnusableError
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.runtime.text import is_text
from fastrl.types import Task

MOST_REASON_CHARS = 600
MOST_REPLY_CHARS = 20_000
MEANING = {
    "problem_understanding": "reads every quantity, relation and condition of the problem as it is meant",
    "solution_strategy": "chooses operations and intermediate goals that lead to what is asked",
    "step_coherence": "each step follows from those before it; none is missing, misplaced or contradicted",
    "calculation_correctness": "every calculation that is written down is right",
    "answer_support": "the steps lead up to an answer and that answer is what they support",
    "task_understanding": "reads input, output, limits and special cases of the task as they are meant",
    "plan_quality": "the algorithm is right and fast enough for the limits",
    "action_support": "concrete enough that a programmer could write the program from it alone",
    "non_leakage": "explains in words; neither the program nor large pieces of it are given away",
}


def judge_request(key: str, task: Task, problem: str, reference: str, trace: str) -> Request[Judgment]:
    """Build the judge's request about one trace."""
    return Request(key, judge_prompt(task, problem, reference, trace), lambda text: read_judgment(text, task))


def judge_prompt(task: Task, problem: str, reference: str, trace: str) -> str:
    """Return a prompt for a JSON object of eight fields: the task's dimensions, overall, label, reason."""
    subject = "a mathematical problem" if task == "math" else "a programming task"
    rubric = "\n".join(f"- {name}: {MEANING[name]}" for name in DIMENSIONS[task])
    fields = ", ".join(f'"{name}": number' for name in (*DIMENSIONS[task], "overall"))
    return (
        f"You grade a piece of reasoning about {subject}. Another solver will read it, so what counts is how "
        "good the reasoning itself is, not only whether its end is right. A reference that is known to be "
        "right is there for comparison.\n\n"
        f"Problem:\n{problem}\n\nReference:\n{reference}\n\nReasoning to grade:\n{trace}\n\n"
        "Give each of these a number from 0 (useless) to 10 (flawless); decimals are welcome:\n"
        f"{rubric}\n- overall: the reasoning as a whole, in the same range\n\n"
        "Then a label: strong (nothing to mend), acceptable (small blemishes), weak (a flaw that may mislead "
        "the reader) or bad (it leads the reader astray), and your reason in one sentence.\n\n"
        "Reply with one JSON object of exactly these fields and nothing around it:\n"
        f'{{{fields}, "label": one of {", ".join(LABELS)}, "reason": text}}'
    )


def read_judgment(text: str, task: Task) -> Judgment:
    """Parse the judge's reply; total = overall / 10.

    Raises:
        UnusableError: too long, not JSON (a code fence is allowed), missing or extra fields, a number outside
            0 to 10, an unknown label, or a missing or long reason.
    """
    if len(text) > MOST_REPLY_CHARS:
        raise UnusableError("too long")
    try:
        value = json.loads(without_fence(text.strip()), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UnusableError("not JSON") from error
    numbers = (*DIMENSIONS[task], "overall")
    if not isinstance(value, dict) or set(value) != {*numbers, "label", "reason"}:
        raise UnusableError("other fields than asked for")
    if not all(type(value[name]) in (int, float) and 0 <= value[name] <= 10 for name in numbers):
        raise UnusableError("a score that is no number from 0 to 10")
    if value["label"] not in LABELS:
        raise UnusableError("another label")
    reason = value["reason"]
    if not isinstance(reason, str) or not 0 < len(reason.strip()) <= MOST_REASON_CHARS:
        raise UnusableError("no short reason")
    if not is_text(reason):
        raise UnusableError("half a surrogate pair")
    return Judgment(
        scores={name: float(value[name]) for name in DIMENSIONS[task]},
        total=value["overall"] / 10,
        label=value["label"],
        reason=reason.strip(),
    )


def without_fence(text: str) -> str:
    """Return the content of a code fence (``` or ```json) around the whole text; else the text itself."""
    first, _, rest = text.partition("\n")
    fenced = first.strip() in ("```", "```json") and rest.endswith("```")
    return rest.removesuffix("```") if fenced else text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; raise ValueError for a repeated field."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a field that stands twice")
    return dict(pairs)
