"""Run HumanEval through the sandbox: canonical solutions must pass; mutants that pass are listed.

    python -m bench.check_humaneval [--out bench/results/humaneval_sandbox.json]

A mutant swaps one operator of a canonical solution: the first comparison, arithmetic, boolean or unary one in
its source. A mutant that passes is listed with the reason. The last line is JSON.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import time
from collections import Counter
from pathlib import Path

from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.runner import Outcome, ProgramReport, ProgramRunner, ProgramTests
from fastrl.runtime.run import environment

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "humaneval.jsonl.gz"
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.BitXor: ast.BitAnd,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.USub: ast.UAdd, ast.UAdd: ast.USub,
}  # fmt: skip
GRID = "[([[1, b], [c, d]], k) for b in (2, 3) for c in (2, 3, 4) for d in (2, 4) for k in range(5)]"
LISTS = "[([a, b, c],) for a in range(-12, 13) for b in range(-3, 25, 4) for c in (0, 10, 11)]"
SURVIVORS: dict[str, tuple[str, str, str]] = {
    "HumanEval/10": ("untested", "no shortest palindrome, where a longer suffix is one", "[('abb',)]"),
    "HumanEval/25": (
        "equal",
        "a composite number has a factor up to its root",
        "[(n,) for n in range(1, 999)]",
    ),
    "HumanEval/31": ("untested", "2 is no prime", "[(2,)]"),
    "HumanEval/35": ("equal", "the larger of two equal numbers", LISTS),
    "HumanEval/40": ("untested", "an element is taken twice", "[([1, -2],)]"),
    "HumanEval/46": ("untested", "no value at 4", "[(4,)]"),
    "HumanEval/59": ("untested", "2 is no prime factor", "[(8,)]"),
    "HumanEval/108": ("equal", "-0 is 0", LISTS),
    "HumanEval/129": ("equal", "a start value that a grid with a 1 replaces", GRID),
    "HumanEval/145": ("equal", "-0 is 0", LISTS),
    "HumanEval/146": ("equal", "10 ends in an even digit", LISTS),
    "HumanEval/147": ("equal", "three times 2 less is the same modulo 3", "[(n,) for n in range(30)]"),
    "HumanEval/159": (
        "equal",
        "nothing remains either way",
        "[(1, n, r) for n in range(9) for r in range(9)]",
    ),
}
"""Mutants that pass, as (class, reason, inputs). "equal" ones agree with the canonical solution on all
inputs; "untested" ones differ on some, but the benchmark's tests don't notice."""
COMPARE = """
def outcome(source, arguments):
    space = {{}}
    exec(source, space)
    try:
        return repr(space[{entry!r}](*arguments))
    except IndexError:
        return "IndexError"
print("equal" if all(outcome({one!r}, a) == outcome({other!r}, a) for a in {inputs}) else "untested")
"""


def problems() -> list[dict[str, str]]:
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def canonical(problem: dict[str, str]) -> str:
    return problem["prompt"] + problem["canonical_solution"]


def mutant(problem: dict[str, str]) -> tuple[str, str] | None:
    """Return the source with one operator swapped, and "before -> after"; None if it has no operator."""
    source = canonical(problem)
    tree = ast.parse(source)
    first_line = problem["prompt"].count("\n") + 1
    places = []
    for node in ast.walk(tree):
        operators = getattr(node, "ops", None) or [getattr(node, "op", None)]
        if getattr(node, "lineno", 0) >= first_line and type(operators[0]) in SWAPPED:
            places.append(
                (node.lineno, node.col_offset, -(node.end_lineno or 0), -(node.end_col_offset or 0), node)
            )
    if not places:
        return None
    *_, node = min(places, key=lambda place: place[:4])
    before = ast.unparse(node)
    if isinstance(node, ast.Compare):
        node.ops[0] = SWAPPED[type(node.ops[0])]()
    else:
        node.op = SWAPPED[type(node.op)]()
    return ast.unparse(tree), f"{before}  ->  {ast.unparse(node)}"


def run_programs(
    runner: ProgramRunner, chosen: list[dict[str, str]], programs: list[str]
) -> list[ProgramReport]:
    jobs = [
        (text, ProgramTests.from_columns(problem)) for text, problem in zip(programs, chosen, strict=True)
    ]
    return runner.run(jobs)


def survivor(runner: ProgramRunner, problem: dict[str, str], made: tuple[str, str]) -> dict[str, str]:
    """Return a passing mutant with its class, "?" if it has none or the comparison contradicts it."""
    source, swap = made
    kind, why, inputs = SURVIVORS.get(problem["task_id"], ("?", "?", "[]"))
    program = COMPARE.format(
        entry=problem["entry_point"], one=canonical(problem), other=source, inputs=inputs
    )
    (report,) = runner.run([(program, ProgramTests(cases=(("", kind),)))])
    confirmed = report.outcome is Outcome.PASSED
    return {
        "task": problem["task_id"], "swap": swap, "class": kind if confirmed else "?", "why": why,
        "compared": inputs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    out = parser.parse_args().out
    chosen = problems()
    mutants = [(problem, made) for problem in chosen if (made := mutant(problem)) is not None]
    # a busy machine must not turn the slowest canonical solutions into timeouts
    with ProgramRunner(ProgramConfig(timeout_s=10.0)) as runner:
        began = time.monotonic()
        solved = run_programs(runner, chosen, [canonical(problem) for problem in chosen])
        completed = run_programs(runner, chosen, [problem["canonical_solution"] for problem in chosen])
        broken = run_programs(runner, [problem for problem, _ in mutants], [made[0] for _, made in mutants])
        seconds = time.monotonic() - began
        passing = [
            survivor(runner, problem, made)
            for (problem, made), report in zip(mutants, broken, strict=True)
            if report.outcome is Outcome.PASSED
        ]
    results = {
        "problems": len(chosen),
        "canonical_passed": sum(report.outcome is Outcome.PASSED for report in solved),
        "completions_passed": sum(report.outcome is Outcome.PASSED for report in completed),
        "mutants": len(mutants),
        "without_operator": [p["task_id"] for p in chosen if mutant(p) is None],
        "mutant_outcomes": dict(Counter(report.outcome.value for report in broken)),
        "survivors": passing,
        "seconds": round(seconds, 1),
    }
    for problem, report in zip(chosen, solved, strict=True):
        if report.outcome is not Outcome.PASSED:
            print(f"{problem['task_id']}: {report.outcome.value}: {report.detail}")
    for row in passing:
        print(f"{row['task']:14} {row['class']:9} {row['swap']}   {row['why']}")
    text = json.dumps({"environment": environment(), "results": results})
    if out is not None:
        out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
