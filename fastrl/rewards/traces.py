"""A planner's trace: where it stands in a completion, and whether it gives the answer away."""

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
    """What stands between the first <tag> and </tag> of a completion, without outer spaces.

    A tag that was opened and not closed: all that follows it. No tag: the whole completion.
    """
    _, opened, after = text.partition(f"<{tag}>")
    return (after.partition(f"</{tag}>")[0] if opened else text).strip()


def states_answer(trace: str, gold: str) -> bool:
    r"""Whether a trace says the gold answer where answers are said.

    That is inside a \boxed{...}, or in the sentence after "answer is", "answer:", "final answer" or "####":
    as its text, or as a number in it. The result of a last step that happens to be the answer is none.
    """
    return any(_same(stated, gold) for stated in _stated(trace))


def holds_program(trace: str) -> bool:
    """Whether a trace holds Python code: a fence, or a line that is a def, class, import, print, for loop, or
    reads the input."""
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
