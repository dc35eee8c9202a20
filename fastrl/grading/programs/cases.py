"""Tests of a programming problem: input and expected output, or a check that calls a function."""

from __future__ import annotations

import ast
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = "tests, or test and entry_point (HumanEval's, with prompt)"
TESTS_CHARS = 2000  # characters of the tests that a reward model reads, in training and in scoring


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTests:
    """Tests that a program must pass."""

    cases: tuple[tuple[str, str], ...] = ()
    """Pairs of standard input and expected output, compared word by word. With entry_point: pairs of the
    function's arguments and accepted return values, one JSON value per line."""
    check: str = ""
    """Source that defines check(candidate), which raises if the function is wrong; counts as one test. Calls
    pass plain data by value: numbers, text, bytes, lists, tuples, sets, dicts."""
    entry_point: str = ""
    """Function that check receives or cases call. A method of the class Solution is Solution().name, or just
    its name if no function has that name."""
    prompt: str = ""
    """Source that check and program may use: imports, helpers, and the beginning of the function."""

    def __len__(self) -> int:
        return len(self.cases) + bool(self.check)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> ProgramTests:
        """Read the tests in a row of a data file.

        Args:
            columns: either tests, which has precedence: [{"stdin": ..., "stdout": ...}, ...] or
                {"inputs": [...], "outputs": [...]}, or a JSON string of one. With "fn_name" in the second
                form, that function is called, see _call. Or test, entry_point and prompt: source that the
                program continues; a prompt in English is ignored.
        Raises:
            ValueError: the row has neither, or in another form.
        """
        if columns.get("tests") is not None:
            return _with_cases(columns["tests"])
        if all(isinstance(columns.get(name), str) and columns[name] for name in ("test", "entry_point")):
            name, prompt = columns["entry_point"], columns.get("prompt")
            return cls(
                check=columns["test"],
                entry_point=name,
                prompt=_source(prompt, name) if isinstance(prompt, str) else "",
            )
        raise ValueError(f"[tests] columns: expected {COLUMNS}, got {sorted(columns)}")

    def as_text(self, limit: int = TESTS_CHARS) -> str:
        """Return inputs and outputs, or the check's source, for a reader; at most `limit` characters."""
        parts = [f"input:\n{given.strip()}\noutput:\n{wanted.strip()}" for given, wanted in self.cases]
        return "\n\n".join(parts or [self.check.strip()])[:limit]


def _with_cases(tests: Any) -> ProgramTests:
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"[tests] tests: expected JSON, got {error}") from error
    name = (tests.get("fn_name") or "") if isinstance(tests, Mapping) else ""
    if not isinstance(name, str):
        raise ValueError(f"[tests] fn_name: expected a function's name, got {reprlib.repr(name)}")
    pairs = _pairs(tests)
    return ProgramTests(cases=tuple(map(_call if name else _printed, pairs)), entry_point=name)


def _pairs(tests: Any) -> list[tuple[Any, Any]]:
    if isinstance(tests, Mapping) and {"inputs", "outputs"} <= tests.keys():
        inputs, outputs = list(tests["inputs"]), list(tests["outputs"])
        if len(inputs) != len(outputs):
            raise ValueError(
                f"[tests] outputs: expected {len(inputs)}, one for each input, got {len(outputs)}"
            )
        return list(zip(inputs, outputs, strict=True))
    if isinstance(tests, Sequence) and all(
        isinstance(test, Mapping) and {"stdin", "stdout"} <= test.keys() for test in tests
    ):
        return [(test["stdin"], test["stdout"]) for test in tests]
    raise ValueError(f"[tests] tests: expected stdin and stdout of each, got {reprlib.repr(tests)}")


def _printed(pair: tuple[Any, Any]) -> tuple[str, str]:
    """Check a pair of standard input and expected output."""
    given, wanted = pair
    if not (isinstance(given, str) and isinstance(wanted, str)):
        raise ValueError(f"[tests] tests: expected text, got {reprlib.repr(pair)}")
    if not wanted.split():
        raise ValueError(
            "[tests] tests: expected a word of output, since a program that does nothing passes without "
            f"one, got {reprlib.repr(pair)}"
        )
    return given, wanted


def _call(pair: tuple[Any, Any]) -> tuple[str, str]:
    """Return arguments and accepted values of a call, one JSON value per line.

    LiveCodeBench has both as text, one argument per line. APPS and TACO have lists of arguments, and a value
    that may be wrapped in a list of its own: then with and without the list are accepted.
    """
    given, wanted = pair
    if isinstance(given, str) and isinstance(wanted, str):
        arguments = [line for line in given.split("\n") if line.strip()]
        values = [wanted.replace("\n", " ")]
    elif isinstance(given, list):
        arguments = [json.dumps(each) for each in given]
        values = [json.dumps(each) for each in ([wanted, *wanted] if _is_single(wanted) else [wanted])]
    else:
        raise ValueError(
            "[tests] inputs: expected a list of arguments, or input and output in JSON, a value a line, got "
            f"{reprlib.repr(pair)}"
        )
    try:
        read = [json.loads(line, parse_int=str) for line in (*arguments, *values)]  # accepts long integers
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"[tests] inputs: expected JSON, a value a line, got {reprlib.repr(pair)}: {error}"
        ) from error
    if None in read[len(arguments) :]:
        raise ValueError(
            "[tests] outputs: expected a value, since a function that does nothing returns None, got "
            f"{reprlib.repr(pair)}"
        )
    return "\n".join(arguments), "\n".join(values)


def _is_single(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1


def _source(prompt: str, name: str) -> str:
    """Return the prompt if it is Python; "" if it is English.

    Raises: ValueError: it begins the function and isn't Python.
    """
    if is_source(with_body(prompt)):
        return prompt
    if re.search(rf"^\s*(?:def|class)\s+{re.escape(name)}\b", prompt, re.MULTILINE):
        raise ValueError(
            f"[tests] prompt: expected Python source or English, got {reprlib.repr(prompt)}, which begins "
            f"{name} and does not compile"
        )
    return ""


def with_body(prompt: str) -> str:
    """Return the prompt; add a body (pass) if it ends with a signature."""
    begun = f"{prompt.rstrip()}\n    pass\n"
    return begun if is_source(begun) and not is_source(prompt) else prompt


def is_source(text: str) -> bool:
    """Return whether a text is Python with more than expressions, since an English word is one, too."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return not body or any(not isinstance(each, ast.Expr) for each in body)
