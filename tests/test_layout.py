"""Layout rules: complete ops, short files and functions, one vocabulary."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from places import ROOT

OPS = sorted(path.parent.name for path in (ROOT / "kernels").glob("*/__init__.py"))
SOURCES = sorted(path for folder in ("fastrl", "kernels", "bench") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NATIVE = sorted(path for end in ("h", "cpp", "cu", "cuh") for path in (ROOT / "csrc").rglob(f"*.{end}"))
LONGEST_FILE, LONGEST_FUNCTION = 500, 80
# What other projects call the things that are logprobs, loss_mask, group_size, clip_eps_* here.
ALIASES = re.compile(
    r"per_token_logps|\b(old_|ref_)?log_probs?\b|\b(trainer|inference|generator)_logprobs|rollout_log_probs"
    r"|completion_mask|response_mask|num_generations|clip_ratio_(low|high)|\bepsilon_(low|high)"
)
SPEAKS_TO_OTHERS = ("integrations", "rewards", "bench_")  # TRL's reward signature; a bench compares with TRL


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_are_ops():
    assert {"group_advantage", "grpo_loss", "linear_logprob", "linear_grpo_loss"} <= set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_complete(op):
    for path in (f"kernels/{op}/reference.py", f"tests/kernels/test_{op}.py", f"bench/bench_{op}.py"):
        assert (ROOT / path).is_file(), f"{op}: {path} is missing"
    reference = (ROOT / f"kernels/{op}/reference.py").read_text()
    assert not re.search(r"import .*(_impl|chunked|_C)\b", reference), (
        f"{op}: its definition uses an implementation"
    )
    public = (ROOT / "fastrl/ops.py").read_text()
    assert f'"{op}"' in public, f"{op}: not in fastrl.ops"


def test_kernels_hide_no_package():
    assert not (ROOT / "kernels/__init__.py").exists()


def test_files_are_short():
    lengths = {name(path): len(path.read_text().splitlines()) for path in SOURCES + TESTS + NATIVE}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_the_median_file_is_small():
    lengths = sorted(len(path.read_text().splitlines()) for path in SOURCES)
    assert lengths[len(lengths) // 2] <= 150


@pytest.mark.parametrize("folder", ["fastrl", "kernels", "bench", "tests"])
def test_functions_fit_a_screen(folder):
    lengths = {
        f"{name(path)}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SOURCES + TESTS
        if name(path).startswith(f"{folder}/")
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {function: length for function, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def test_no_silent_rescue():
    caught = [
        (name(path), node.lineno)
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
    ]
    # a program that a model wrote may raise anything, and so may a parser that is fuzzed: both are reported
    assert [file for file, _ in caught] == ["bench/fuzz_text.py", "fastrl/grading/programs/forks.py"]


def test_one_vocabulary():
    found = [
        (name(path), number, alias.group())
        for path in SOURCES
        if not any(part in name(path) for part in SPEAKS_TO_OTHERS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (alias := ALIASES.search(line))
    ]
    assert found == []


def test_the_core_knows_no_python():
    outside = re.compile(r"#include\s*[<\"](nanobind|Python\.h|torch)")
    assert [name(path) for path in NATIVE if outside.search(path.read_text())] == ["csrc/bindings.cpp"]


def test_the_build_is_one_short_file():
    assert len((ROOT / "CMakeLists.txt").read_text().splitlines()) < 100
    assert not (ROOT / "setup.py").exists()
