"""Problems of both tasks by hand; tests accept only the right program."""

import pytest

from fastrl.tiny.tracelift.task import answer, program_tests, question, task_row
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains

CHAIN = Chain.parse("7+5*3-2")  # 4
CHAINS = draw_chains(ChainConfig(), 100, seed=2, split="train")


def test_by_hand():
    assert (question("math", CHAIN), answer("math", CHAIN)) == ("7+5*3-2", "4")
    assert (question("code", CHAIN), answer("code", CHAIN)) == ("x*(7+5*3-2)", "print(int(input())*4%10)")
    assert task_row("math", CHAIN, 2, 0) == {"prompt": "7+5*3-2", "solution": "4", "expression": "7+5*3-2"}
    row = task_row("code", CHAIN, 3, 0)
    assert set(row) == {"prompt", "solution", "expression", "tests"}
    assert (row["prompt"], row["solution"], row["expression"]) == (
        "x*(7+5*3-2)", "print(int(input())*4%10)", "7+5*3-2",
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tests_distinguish_programs(count):
    for chain in CHAINS:
        rows = program_tests(chain, count, seed=0)
        assert rows == program_tests(chain, count, seed=0)
        assert len({row["stdin"] for row in rows}) == count
        passing = [
            value
            for value in range(10)
            if all(str(int(row["stdin"]) * value % 10) == row["stdout"] for row in rows)
        ]
        assert passing == [chain.answer]


def test_tests_depend_on_the_seed():
    drawn = {seed: [program_tests(chain, 3, seed) for chain in CHAINS] for seed in (0, 1)}
    assert drawn[0] != drawn[1]
