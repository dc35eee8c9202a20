"""Real HumanEval: canonical solutions pass, mutated ones don't. All 164 of them: bench/check_humaneval.py."""

import pytest
from sandboxed import needs_sandbox

from bench.check_humaneval import DATA, SURVIVORS, canonical, mutant, problems, run_programs, survivor
from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.runner import Outcome, ProgramRunner

pytestmark = [
    needs_sandbox,
    pytest.mark.skipif(not DATA.is_file(), reason=f"{DATA.name} is not here"),
]


@pytest.fixture(scope="module")
def runner():
    with ProgramRunner(ProgramConfig(timeout_s=10.0)) as shared:
        yield shared


def test_canonical_solutions_pass_whole_and_as_completions(runner):
    every = problems()
    assert len(every) == 164
    # 32 calls a helper of the prompt, 38 and 50 too; the slowest one is 39
    chosen = [*every[::9], every[32], every[38], every[39], every[50]]
    for programs in ([canonical(p) for p in chosen], [p["canonical_solution"] for p in chosen]):
        assert [report.outcome for report in run_programs(runner, chosen, programs)] == [
            Outcome.PASSED
        ] * len(chosen)


def test_one_swapped_operator_fails(runner):
    chosen = [(problem, made) for problem in problems()[3::8] if (made := mutant(problem)) is not None]
    assert len(chosen) == 19
    reports = run_programs(runner, [problem for problem, _ in chosen], [source for _, (source, _) in chosen])
    passed = {p["task_id"] for (p, _), r in zip(chosen, reports, strict=True) if r.outcome is Outcome.PASSED}
    assert passed == {problem["task_id"] for problem, _ in chosen} & set(SURVIVORS)


@pytest.mark.parametrize(("task", "kind"), [(31, "untested"), (147, "equal")])
def test_survivors_are_compared_with_the_canonical_solution(runner, task, kind):
    problem = problems()[task]
    made = mutant(problem)
    assert survivor(runner, problem, made)["class"] == kind
    if kind == "untested":
        assert survivor(runner, problem, (canonical(problem), made[1]))["class"] == "?"


def test_the_first_operator_is_swapped():
    problem = {"prompt": "def f(x):\n    '''y - 1'''\n", "canonical_solution": "    return (x + 2) * x < 3\n"}
    source, swap = mutant(problem)
    assert swap == "(x + 2) * x < 3  ->  (x + 2) * x <= 3"
    assert source.endswith("return (x + 2) * x <= 3")
    assert mutant(problem | {"canonical_solution": "    return x\n"}) is None
