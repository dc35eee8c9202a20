"""The tests of a programming problem: input and expected output, or a check that calls a function."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = "tests, or test and entry_point (HumanEval's, with prompt)"
TESTS_CHARS = 2000  # what a reward model reads of them, when it learns and when it judges


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTests:
    """What a program must do."""

    cases: tuple[tuple[str, str], ...] = ()
    """(standard input, expected standard output); outputs are compared word by word."""
    check: str = ""
    """Source that defines check(candidate), which raises where the function is wrong; one test. It calls by
    value: plain data in (numbers, text, bytes, lists, tuples, sets, dicts), plain data out."""
    entry_point: str = ""
    """The function that check is given."""
    prompt: str = ""
    """Source that check and program may use: imports, helpers, and how the function begins."""

    def __len__(self) -> int:
        return len(self.cases) + bool(self.check)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> ProgramTests:
        """From a row of a data file.

        Args:
            columns: tests is [{"stdin": ..., "stdout": ...}, ...] or {"inputs": [...], "outputs": [...]} or a
                JSON string of either; or test, entry_point and, where the program may be the rest of a
                function, prompt. tests goes first.
        Raises:
            ValueError: it has neither, or they are not of that form.
        """
        if columns.get("tests") is not None:
            return cls(cases=_cases(columns["tests"]))
        if all(isinstance(columns.get(name), str) and columns[name] for name in ("test", "entry_point")):
            prompt = columns.get("prompt")
            return cls(
                check=columns["test"],
                entry_point=columns["entry_point"],
                prompt=prompt if isinstance(prompt, str) else "",
            )
        raise ValueError(f"[tests] columns: expected {COLUMNS}, got {sorted(columns)}")

    def as_text(self, limit: int = TESTS_CHARS) -> str:
        """For a reader: the check's source, or inputs and outputs; at most limit characters."""
        parts = [f"input:\n{given.strip()}\noutput:\n{wanted.strip()}" for given, wanted in self.cases]
        return "\n\n".join(parts or [self.check.strip()])[:limit]


def _cases(tests: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except json.JSONDecodeError as error:
            raise ValueError(f"[tests] tests: expected JSON, got {error}") from error
    if isinstance(tests, Mapping) and {"inputs", "outputs"} <= tests.keys():
        inputs, outputs = list(tests["inputs"]), list(tests["outputs"])
        if len(inputs) != len(outputs):
            raise ValueError(
                f"[tests] outputs: expected {len(inputs)}, one for each input, got {len(outputs)}"
            )
        pairs: list[Any] = list(zip(inputs, outputs, strict=True))
    elif isinstance(tests, Sequence) and all(
        isinstance(test, Mapping) and {"stdin", "stdout"} <= test.keys() for test in tests
    ):
        pairs = [(test["stdin"], test["stdout"]) for test in tests]
    else:
        raise ValueError(f"[tests] tests: expected stdin and stdout of each, got {reprlib.repr(tests)}")
    for given, wanted in pairs:
        if not (isinstance(given, str) and isinstance(wanted, str)):
            raise ValueError(f"[tests] tests: expected text, got {reprlib.repr((given, wanted))}")
        if not wanted.split():
            raise ValueError(
                "[tests] tests: expected a word of output, since a program that does nothing passes without "
                f"one, got {reprlib.repr((given, wanted))}"
            )
    return tuple(pairs)
