"""Traces in completions: extraction by tag, and detection of leaked answers and programs."""

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
    """Return the text between the first <tag> and </tag> of a completion, without outer spaces.

    If the tag is not closed, everything after it; without a tag, the whole completion.
    """
    _, opened, after = text.partition(f"<{tag}>")
    return (after.partition(f"</{tag}>")[0] if opened else text).strip()


def states_answer(trace: str, gold: str) -> bool:
    r"""Return True if a trace states the gold answer as an answer. A heuristic, linear in the trace.

    It counts wherever the grader looks for answers (boxes, answer tags, phrases in many languages), and in
    the sentence after "answer is", "answer:", "final answer" or "result:": as the whole sentence or as a
    number in it. A step's result that equals the answer does not count. An answer in other words, or one that
    needs algebra to be recognised, is not found.
    """
    said = dict.fromkeys([*stated_answers(trace), *_after_markers(trace)])
    parts = dict.fromkeys(part for each in said for part in (each, *_NUMBER.findall(each)))
    return any(_same(part, gold) for part in parts)


def holds_program(trace: str) -> bool:
    """Return True if a trace has Python code: a code fence, or a def, class, import, print, for, `while True`
    or input line. A heuristic: other lines of a program are not found."""
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
