"""Traces in completions: extraction by tag, and detection of leaked answers and programs."""

from __future__ import annotations

import re

from fastrl.grading import exact_verdict
from fastrl.grading.boxes import box_contents

_MARKER = re.compile(
    r"\bfinal answer\W{0,3}\s*(?:is\b|[:=])?|\banswer\W{0,3}\s*(?:is\b|[:=])|####", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_NUMBER = re.compile(r"(?<![\w.])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_STATEMENT = re.compile(
    r"^[ \t]*(?:"
    r"def \w+\(.*\).*:|class \w+(?:\(.*\))?:|import \w+(?: as \w+)?(?:, ?\w+)*|from \w[\w.]* import .*"
    r"|print\(.*\)|\w+(?:, ?\w+)* = .*\binput\(.*"
    r"|for \w+(?:, ?\w+)* in \w+(?:\(.*\)|\[.*\])?:"
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
    r"""Return True if a trace states the gold answer as an answer.

    It counts inside \boxed{...}, and in the sentence after "answer is", "answer:", "final answer" or "####":
    as the whole sentence or as a number in it. A step's result that equals the answer does not count.
    """
    return any(_same(stated, gold) for stated in _stated(trace))


def holds_program(trace: str) -> bool:
    """Return True if a trace has Python code: a code fence, or a def, class, import, print, for or input
    line."""
    return bool(_FENCE.search(trace) or _STATEMENT.search(trace))


def _stated(trace: str) -> list[str]:
    found = box_contents(trace)
    for marker in _MARKER.finditer(trace):
        rest = trace[marker.end() :].lstrip()
        end = _SENTENCE_END.search(rest)
        sentence = rest[: end.start() if end else None].strip(" *:=")
        found += [sentence, *_NUMBER.findall(sentence)]
    return found


def _same(stated: str, gold: str) -> bool:
    return exact_verdict(stated, gold) is True
