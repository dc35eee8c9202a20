"""Flawed traces written by a model: one kind of flaw per request, located by a diff with the good trace."""

from __future__ import annotations

import difflib
import re
from random import Random

from fastrl.methods.tracelift.groups.asking import Request
from fastrl.methods.tracelift.groups.drafts import Draft, UnusableError
from fastrl.methods.tracelift.groups.seeds import Seed
from fastrl.methods.tracelift.groups.taxonomy import TAXONOMY
from fastrl.runtime.seeding import seed_of
from fastrl.types import Task

LEAST_LIKENESS = 0.5
"""Lowest difflib ratio of the flawed trace's words to the good one's; below it, the text was rewritten."""
_ANSWER = re.compile(r"<reasoning>(.*)</reasoning>", re.DOTALL)


def writing_requests(seed: Seed, task: Task, count: int, run_seed: int) -> list[Request[Draft]]:
    """Build `count` requests for flaws of one problem, cycling through the kinds in random order."""
    kinds = list(TAXONOMY[task])
    Random(seed_of(run_seed, "kinds", seed.problem_id)).shuffle(kinds)
    return [_request(seed, task, kinds[number % len(kinds)], number // len(kinds)) for number in range(count)]


def _request(seed: Seed, task: Task, kind: str, variant: int) -> Request[Draft]:
    return Request(
        key=f"{seed.problem_id}/{kind}/{variant}",
        prompt=writing_prompt(task, kind, seed.problem, seed.positive.text),
        read=lambda text: read_flawed(text, kind, seed.positive.text),
    )


def writing_prompt(task: Task, kind: str, problem: str, positive: str) -> str:
    """Return a prompt for the same reasoning with exactly one flaw of this kind, in <reasoning> tags."""
    what = "a mathematical problem" if task == "math" else "a programming task"
    return (
        f"Below are {what} and a sound piece of reasoning about it. For training a grader we need the same "
        "reasoning with exactly one flaw in it.\n\n"
        f"Problem:\n{problem}\n\nSound reasoning:\n{positive}\n\n"
        f"The flaw: {TAXONOMY[task][kind].task}\n\n"
        "Rules: copy everything before the flaw word for word; after it, change only what follows from it. "
        "The text must read as if its author believed it: no hint at the flaw, no comment, no apology. "
        "Write the flawed reasoning between <reasoning> and </reasoning>, and nothing outside."
    )


def read_flawed(text: str, kind: str, positive: str) -> Draft:
    """Parse the writer's reply: the trace in the tags and the changed span.

    Raises:
        UnusableError: no or several tags; an empty, unchanged or entirely rewritten trace.
    """
    found = _ANSWER.fullmatch(text.strip())
    if found is None or text.count("<reasoning>") > 1 or text.count("</reasoning>") > 1:
        raise UnusableError("no reasoning in tags")
    flawed = found.group(1).strip()
    if not flawed:
        raise UnusableError("empty reasoning")
    if flawed.split() == positive.split():
        raise UnusableError("nothing changed")
    likeness = difflib.SequenceMatcher(None, flawed.split(), positive.split(), autojunk=False)
    # the quick ones are upper bounds; the last takes long for a long text of few words
    if min(likeness.real_quick_ratio(), likeness.quick_ratio()) < LEAST_LIKENESS or (
        likeness.ratio() < LEAST_LIKENESS
    ):
        raise UnusableError("rewritten from end to end")
    return Draft(text=flawed, negative_kind=kind, place=changed_place(flawed, positive))


def changed_place(flawed: str, positive: str) -> tuple[int, int]:
    """Return the span of `flawed` between the longest common prefix and suffix of the two texts."""
    most = min(len(flawed), len(positive))
    start = next((i for i in range(most) if flawed[i] != positive[i]), most)
    room = most - start
    same = next((i for i in range(room) if flawed[-1 - i] != positive[-1 - i]), room)
    return start, len(flawed) - same
