"""Parses a verifier's reply into an intervention: the substep to replace and the new step."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from fastrl.runtime.text import is_text

Reject = Literal["unfinished", "no_tag", "unreadable", "no_location", "out_of_range", "empty"]
OPEN, CLOSE = "<intervention>", "</intervention>"
BRACE = re.compile(r"\{(?=\s*[\"'])")
MOST_CHARS = 200_000
"""Only this many characters at the end of a reply are parsed."""
MOST_TRIES = 100
"""Largest number of {...} texts that are parsed if the tag is missing."""
ESCAPE = re.compile(r"\\(\\|u[0-9a-fA-F]{4}|[A-Za-z]+|.)", re.DOTALL)
# LaTeX commands that begin with \t or \n, JSON's escapes for a tab and a line break
COMMANDS = {
    "tan", "tanh", "tau", "text", "textbf", "textit", "textrm", "tfrac", "therefore", "theta", "times",
    "tilde", "to", "top", "triangle", "triangleq", "nabla", "ne", "nearrow", "neg", "neq", "nexists", "ngtr",
    "ni", "nleq", "nmid", "not", "notin", "nparallel", "nu", "nsubseteq",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Intervention:
    """A step that replaces substep `location` and all substeps after it."""

    location: int
    """Step number, from 1."""
    content: str


def parse_intervention(text: str, num_steps: int) -> Intervention | Reject:
    """Parse the last <intervention>{"content": ..., "location": ...}</intervention> of a text; without a tag,
    the last {...} with both names.

    The object is JSON with unescaped LaTeX backslashes, or a Python literal. Otherwise returns the reject
    reason; "empty" means that the verifier found no error.
    """
    text = text[-MOST_CHARS:]
    end = text.rfind(CLOSE)
    if text.rfind(OPEN) > end:
        return "unfinished"
    begin = text.rfind(OPEN, 0, max(end, 0))
    value = last_object(text) if begin < 0 else read_object(text[begin:end])
    if value is None:
        return "no_tag" if begin < 0 else "unreadable"
    if not isinstance(value, dict) or not isinstance(value.get("content"), str | None):
        return "unreadable"
    content = (value.get("content") or "").strip()
    if not is_text(content):
        return "unreadable"
    if not content:
        return "empty" if "content" in value else "unreadable"
    location = whole_number(value.get("location"))
    if location is None:
        return "no_location"
    if not 1 <= location <= num_steps:
        return "out_of_range"
    return Intervention(location, content)


def last_object(text: str) -> Any:
    """Return the value of the last {...} with both names; None if there is none."""
    tries, last = 0, min(text.rfind("content"), text.rfind("location"))
    for begin in reversed([match.start() for match in BRACE.finditer(text)]):
        if begin > last or tries == MOST_TRIES:
            continue
        names = text.find("content", begin), text.find("location", begin)
        end = text.find("}", max(names)) if min(names) >= 0 else -1
        while end >= 0 and tries < MOST_TRIES:
            tries += 1
            if (value := read_object(text[begin : end + 1])) is not None:
                return value
            end = text.find("}", end + 1)
    return None


def read_object(body: str) -> Any:
    """Return the value of a JSON object or a Python literal; None if it is neither."""
    begin, end = body.find("{"), body.rfind("}")
    if begin < 0 or end < begin:
        return None
    repaired = ESCAPE.sub(literal_latex, body[begin : end + 1])
    try:
        return json.loads(repaired, strict=False)  # models put bare line breaks into strings
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(repaired)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def literal_latex(escape: re.Match[str]) -> str:
    r"""Keep JSON escapes such as \n and \", and double the backslash of LaTeX's \frac and \(."""
    word = escape[1]
    if word == "/":
        return word
    meant = word in ("\\", '"', "'") or re.fullmatch("u[0-9a-fA-F]{4}", word) is not None
    if meant or (word[0] in "nt" and word not in COMMANDS):
        return escape[0]
    return "\\" + escape[0]


def whole_number(value: Any) -> int | None:
    """Convert 3, 3.0, "3" or "Substep 3" to 3; None for booleans and everything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    digits = re.findall(r"\d+", value) if isinstance(value, str) else []
    return int(digits[0]) if len(digits) == 1 and len(digits[0]) < 10 and "-" not in value else None
