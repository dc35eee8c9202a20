"""Blocks that show a selected row: texts, runs of another model, tables, steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Block = dict[str, Any]
WORDS = {"correct": "right", "passed": "right", "wrong_answer": "wrong"}


class Texts:
    """A list of distinct texts that rows refer to by index."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """Return the index of a text, adding it if it is new."""
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


def outcome_of(verdict: str | None) -> str | None:
    """Translate a verdict into the page's wording."""
    return verdict and WORDS.get(verdict, verdict.replace("_", " "))


def text(title: str, content: str, note: str = "", marks: Sequence[Mapping[str, Any]] = ()) -> Block:
    """Return a text block; marks are {"at": position in UTF-16 units, "label"}."""
    return {"kind": "text", "title": title, "text": content, "note": note, "marks": list(marks)}


def run(content: str, verdict: str | None, note: str) -> dict[str, Any]:
    """Return another model's output with its outcome."""
    return {"text": content, "outcome": outcome_of(verdict), "note": note}


def runs(title: str, found: Sequence[Mapping[str, Any]], note: str = "", lead: str = "") -> Block:
    """Return a block of outputs; lead is the end of the prefix that they continue."""
    return {"kind": "runs", "title": title, "runs": list(found), "note": note, "lead": lead}


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Block:
    return {"kind": "table", "title": title, "head": list(head), "rows": [list(row) for row in rows]}


def numbers(values: Mapping[str, Any]) -> list[list[Any]]:
    """Return [name, value] rows; values other than numbers and text are written as JSON."""
    plain = (str, int, float, type(None))
    return [
        [name, value if isinstance(value, plain) else json.dumps(value, ensure_ascii=False)]
        for name, value in values.items()
    ]


def utf16_length(content: str) -> int:
    """Return the length in UTF-16 units, as browsers count: code points from 65,536 are two."""
    return len(content) + sum(character > "\uffff" for character in content)
