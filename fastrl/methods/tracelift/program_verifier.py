"""Verifies an executor's program by running its problem's tests."""

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
"""Largest fraction of a batch's programs that the sandbox may fail on before it is an error."""
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
    """Runs an executor's program against its problem's tests; success means that all pass.

    A program that the sandbox itself failed on scores 0 and is counted separately.

    Raises: RuntimeError: the sandbox failed on more than half of a batch.
    """

    task: Task = "code"
    labels = tuple(outcome.value for outcome in Outcome)

    def __init__(self, runner: ProgramRunner) -> None:
        self.runner = runner

    def reference(self, row: Mapping[str, Any]) -> ProgramTests:
        # trainers reserve the column `prompt`, where function problems have the stub: take it from question
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
    """Return a reference as tests: it is either tests or a row with their columns."""
    return reference if isinstance(reference, ProgramTests) else ProgramTests.from_columns(reference)


def _ran(report: ProgramReport) -> Checked:
    return Checked(
        success=report.outcome is Outcome.PASSED,
        score=execution_score(report.passed, report.total, RAN_TO[report.outcome]),
        pass_rate=report.passed / report.total if report.total else 0.0,
        label=report.outcome.value,
    )
