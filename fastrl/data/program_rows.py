"""Programming problems of public data sets: bring their tests into the forms that ProgramTests takes."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from fastrl.data.cells import parsed
from fastrl.data.hidden_tests import unpacked
from fastrl.data.rows import Row

Made = dict[str, Any]


def any_text(value: object) -> str:
    """Return a reference program; "" if the file has none, since tests decide."""
    return value if isinstance(value, str) else ""


def human_eval(row: Row, _: int) -> Made:
    """HumanEval and HumanEval+: prompt, test and entry_point stay as they are."""
    return {"program_prompt": row["prompt"]}


def leet_code(row: Row, _: int) -> Made:
    """LeetCode: the question is the description with the starter code; prompt holds the imports."""
    begins = row.get("starter_code")
    parts = [row["problem_description"], *([f"```python\n{begins.strip()}\n```"] if begins else [])]
    return {"question": "\n\n".join(parts), "program_prompt": row.get("prompt") or ""}


def mbpp(row: Row, _: int) -> Made:
    """MBPP: text (prompt in the sanitized part) and asserts, which the question shows as they name the
    function."""
    setup = row.get("test_setup_code") or "\n".join(_list(row.get("test_imports")))
    asserts = "\n".join(_list(row["test_list"]))
    question = f"{row.get('text') or row.get('prompt')}\nYour code should pass:\n{asserts}"
    return {"question": question, **_checked(row["code"], f"{setup}\n{asserts}")}


def mbpp_plus(row: Row, _: int) -> Made:
    """MBPP+: test is a script that calls the function by its name."""
    imports = "\n".join(_list(row.get("test_imports")))
    return _checked(row["code"], f"{imports}\n{row['test']}")


def apps(row: Row, _: int) -> Made:
    """APPS and TACO: input_output is JSON of inputs and outputs, and fn_name if tests call a function."""
    tests = _parsed_as(dict, row, "input_output")
    programs = row.get("solutions")
    programs = parsed(programs) if isinstance(programs, str) else programs
    reference = programs[0] if isinstance(programs, list) and programs else None
    return {"question": _begun(row["question"], row.get("starter_code")), "reference": reference,
            "tests": _tests(tests.get("inputs"), tests.get("outputs"), tests.get("fn_name"))}  # fmt: skip


def live_code_bench(row: Row, _: int) -> Made:
    """LiveCodeBench: public tests, then private ones, which may be packed."""
    tests = [*_parsed_as(list, row, "public_test_cases"), *unpacked(row.get("private_test_cases") or "[]")]
    metadata = row.get("metadata")
    metadata = parsed(metadata) if isinstance(metadata, str) else metadata
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    inputs, outputs = [test["input"] for test in tests], [test["output"] for test in tests]
    return {"question": _begun(row["question_content"], row.get("starter_code")),
            "tests": _tests(inputs, outputs, name)}  # fmt: skip


def code_contests(row: Row, _: int) -> Made:
    """CodeContests: public, private and generated tests; the first solution in Python 3 is the reference."""
    inputs: list[Any] = []
    outputs: list[Any] = []
    for name in ("public_tests", "private_tests", "generated_tests"):
        tests = row.get(name) or {}
        tests = parsed(tests) if isinstance(tests, str) else tests
        inputs += tests.get("input") or []
        outputs += tests.get("output") or []
    solutions = row.get("solutions") or {}
    pairs = zip(solutions.get("language") or [], solutions.get("solution") or [], strict=False)
    reference = next((text for language, text in pairs if language in (3, "PYTHON3")), None)
    return {"reference": reference, "tests": _tests(inputs, outputs, None)}


def _tests(inputs: Any, outputs: Any, fn_name: str | None) -> Made:
    """Check inputs and outputs; without fn_name, join each list of lines to one text."""
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("tests: expected as many outputs as inputs, two lists")
    if not inputs:
        raise ValueError("tests: expected at least one, got none")
    if fn_name:
        return {"inputs": inputs, "outputs": outputs, "fn_name": fn_name}
    return {"inputs": [_lines(each) for each in inputs], "outputs": [_lines(each) for each in outputs]}


def _lines(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in value)
    return value


def _begun(question: str, starter: object) -> str:
    """Return the question with its starter code, if there is any."""
    if not isinstance(starter, str) or not starter.strip():
        return question
    return f"{question}\n\nBegin with:\n```python\n{starter.strip()}\n```"


def _checked(program: str, script: str) -> Made:
    """Make test and entry_point from a script of asserts.

    test is a check(candidate) that runs the script with candidate bound to the function's name; entry_point
    is that name, the last definition of the program that the script refers to.
    """
    try:
        body = ast.parse(script).body
        defined = [n.name for n in ast.parse(program).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"code or tests: expected Python, got {error}") from error
    called = {node.id for node in _names(body)}
    name = next((each for each in reversed(defined) if each in called), None)
    if name is None:
        raise ValueError(f"tests: expected calls of a function that code defines, {defined}, got none")
    imports = [each for each in body if isinstance(each, ast.Import | ast.ImportFrom)]
    rest = [each for each in body if not isinstance(each, ast.Import | ast.ImportFrom)]
    inside = "\n".join((f"{name} = candidate", *map(ast.unparse, rest)))
    check = ast.parse("def check(candidate):\n    pass")
    check.body[0].body = ast.parse(inside).body  # type: ignore[attr-defined]
    lines = [*map(ast.unparse, imports), ast.unparse(check)]
    return {"test": "\n".join(lines) + "\n", "entry_point": name, "program_prompt": ""}


def _names(body: Iterable[ast.stmt]) -> list[ast.Name]:
    return [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _list(value: Any) -> list[str]:
    value = parsed(value) if isinstance(value, str) else value
    return value if isinstance(value, list) else []


def _parsed_as(kind: type[Any], row: Row, column: str) -> Any:
    value = row[column]
    value = parsed(value) if isinstance(value, str) else value
    if not isinstance(value, kind):
        raise ValueError(f"{column}: expected JSON of a {kind.__name__}, got {str(value)[:60]!r}")
    return value
