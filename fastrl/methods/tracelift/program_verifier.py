"""Is an executor's program right? Run against its problem's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.data.problems import program_columns
from fastrl.grading.programs.cases import ProgramTests
from fastrl.grading.programs.runner import Outcome, ProgramReport, ProgramRunner, extract_program
from fastrl.methods.tracelift.uplift_formulas import BROKE, RAN, execution_score
from fastrl.methods.tracelift.verifiers import Checked
from fastrl.rewards.traces import holds_program
from fastrl.types import Task

MOST_BROKEN = 0.5
"""Of a batch's programs the sandbox may fail on so many; above that nothing is measured."""
RAN_TO = {
    Outcome.PASSED: RAN,
    Outcome.WRONG_ANSWER: RAN,
    Outcome.RUNTIME_ERROR: BROKE,
    Outcome.TIMEOUT: BROKE,
    Outcome.COMPILE_ERROR: 0.0,
    Outcome.NO_TESTS: 0.0,
    Outcome.SANDBOX_ERROR: 0.0,
}


class CodeVerifier:
    """Runs the program that an executor writes against its problem's tests; success is that all pass.

    A program that the sandbox itself failed on earns nothing and is counted apart.

    Raises: RuntimeError: that was more than half of a batch.
    """

    task: Task = "code"
    labels = tuple(outcome.value for outcome in Outcome)

    def __init__(self, runner: ProgramRunner) -> None:
        self.runner = runner

    def reference(self, row: Mapping[str, Any]) -> ProgramTests:
        # trainers keep a column of the name prompt for themselves; a function's problem is its prompt
        return ProgramTests.from_columns(program_columns(row, row.get("question")))

    def check(self, answers: Sequence[tuple[str, Any]]) -> list[Checked]:
        reports = self.runner.run([(extract_program(text), tests_of(tests)) for text, tests in answers])
        broken = [report for report in reports if report.outcome is Outcome.SANDBOX_ERROR]
        if len(broken) > MOST_BROKEN * len(reports):
            raise RuntimeError(
                f"[executor] program: expected the sandbox to run at least half of a batch, got "
                f"{len(broken)} failures of {len(reports)}: {broken[0].detail}"
            )
        return [_ran(report) for report in reports]

    def leaks(self, trace: str, reference: Any) -> bool:
        return holds_program(trace)

    def tests_text(self, reference: Any) -> str | None:
        return tests_of(reference).as_text()

    def close(self) -> None:
        self.runner.close()


def tests_of(reference: Any) -> ProgramTests:
    """A reference as it is run: tests, or a row that has them."""
    return reference if isinstance(reference, ProgramTests) else ProgramTests.from_columns(reference)


def _ran(report: ProgramReport) -> Checked:
    return Checked(
        success=report.outcome is Outcome.PASSED,
        score=execution_score(report.passed, report.total, RAN_TO[report.outcome]),
        pass_rate=report.passed / report.total if report.total else 0.0,
        label=report.outcome.value,
    )
