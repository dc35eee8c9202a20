"""A planner's trace: where it stands in a completion, and whether it gives the answer away."""

from __future__ import annotations

import re

from fastrl.grading import exact_verdict
from fastrl.grading.where import stated_answers

# what the grader doesn't take for an answer's place, and a reader does
_MARKER = re.compile(
    r"\b(?:final answer\W{0,3}\s*(?:is\b|[:=])?|(?:answer|results?)\W{0,3}\s*(?:is\b|are\b|[:=]))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_LONGEST = 4000
"""Characters of a sentence that are read."""
_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_STATEMENT = re.compile(
    r"^[ \t]*(?=\S)(?:"
    r"(?:async )?def \w+\(.*:|class \w+(?:\(.*\))?:|import \w+(?: as \w+)?(?:, ?\w+)*|from \w[\w.]* import .*"
    r"|print\(.*\)|[\w, \t*.()\[\]]+=.*\b(?:input\(|open\(0\b|stdin\b).*|while True:|if __name__ ?==.*"
    r"|for \w+(?:, ?\w+)* in (?:\w[\w.]*(?:\(.*\)|\[.*\])|\w+\.\w+):"
    r")[ \t]*$",
    re.MULTILINE,
)


def trace_of(text: str, tag: str) -> str:
    """What stands between the first <tag> and </tag> of a completion, without outer spaces.

    A tag that was opened and not closed: all that follows it. No tag: the whole completion.
    """
    _, opened, after = text.partition(f"<{tag}>")
    return (after.partition(f"</{tag}>")[0] if opened else text).strip()


def states_answer(trace: str, gold: str) -> bool:
    r"""Whether a trace says the gold answer where answers are said: a heuristic, linear in the trace.

    That is wherever the grader would look for an answer (boxes, answer tags, phrases in many languages), or
    in the sentence after "answer is", "answer:", "final answer" or "result:"; as its text, or as a number in
    it. The result of a last step that happens to be the answer is none, and neither is an answer in other
    words, or one that takes algebra to see that it is the gold one.
    """
    said = dict.fromkeys([*stated_answers(trace), *_after_markers(trace)])
    parts = dict.fromkeys(part for each in said for part in (each, *_NUMBER.findall(each)))
    return any(_same(part, gold) for part in parts)


def holds_program(trace: str) -> bool:
    """Whether a trace holds Python code: a fence, or a line that is a def, class, import, print, for loop,
    `while True`, or reads the input. A heuristic: other lines of a program pass it."""
    return bool(_FENCE.search(trace) or _STATEMENT.search(trace))


def _after_markers(trace: str) -> list[str]:
    """The sentences after markers, each up to the next marker."""
    markers = list(_MARKER.finditer(trace))
    ends = [marker.start() for marker in markers[1:]] + [len(trace)]
    found = []
    for marker, end in zip(markers, ends, strict=False):  # without a marker one end is left
        rest = trace[marker.end() : min(end, marker.end() + _LONGEST)].lstrip()
        stop = _SENTENCE_END.search(rest)
        found.append(rest[: stop.start() if stop else None].strip(" *:="))
    return found


def _same(stated: str, gold: str) -> bool:
    return exact_verdict(stated, gold) is True
