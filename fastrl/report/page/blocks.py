"""The pieces that a chosen row is shown in: texts, runs of another model, tables, steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Block = dict[str, Any]
WORDS = {"correct": "right", "passed": "right", "wrong_answer": "wrong"}


class Texts:
    """Texts that many rows share, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def outcome_of(verdict: str | None) -> str | None:
    """A verdict in the page's words."""
    return verdict and WORDS.get(verdict, verdict.replace("_", " "))


def text(title: str, content: str, note: str = "", marks: Sequence[Mapping[str, Any]] = ()) -> Block:
    """marks: {"at", "label"}: a place in UTF-16 units, as a browser counts, and what stands there."""
    return {"kind": "text", "title": title, "text": content, "note": note, "marks": list(marks)}


def run(content: str, verdict: str | None, note: str) -> dict[str, Any]:
    """What another model wrote, and what became of it."""
    return {"text": content, "outcome": outcome_of(verdict), "note": note}


def runs(title: str, found: Sequence[Mapping[str, Any]], note: str = "", lead: str = "") -> Block:
    """lead: the end of what each of them goes on from."""
    return {"kind": "runs", "title": title, "runs": list(found), "note": note, "lead": lead}


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Block:
    return {"kind": "table", "title": title, "head": list(head), "rows": [list(row) for row in rows]}


def numbers(values: Mapping[str, Any]) -> list[list[Any]]:
    """A line a value; what is neither number nor text is written as JSON."""
    plain = (str, int, float, type(None))
    return [
        [name, value if isinstance(value, plain) else json.dumps(value, ensure_ascii=False)]
        for name, value in values.items()
    ]


def utf16_length(content: str) -> int:
    """Characters as a browser counts them: those beyond the first 65,536 code points are two."""
    return len(content) + sum(character > "\uffff" for character in content)
