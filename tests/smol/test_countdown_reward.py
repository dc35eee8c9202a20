"""The countdown reward by hand: each number once, the target exactly, nothing but numbers and operations."""

import pytest

from fastrl.rewards.imported import imported_reward
from fastrl.smol.rewards import countdown, solves


@pytest.mark.parametrize(
    "formula",
    ["(3 + 5) * 2", "2*(5+3)", r"2 \times (3 + 5)", r"(3 + 5) \cdot 2", "(3 + 5) \u00d7 2", "(3+5)/(1/2)"],
)
def test_right(formula):
    assert solves(formula, [1, 2, 3, 5] if "1/2" in formula else [2, 3, 5], 16)


@pytest.mark.parametrize(
    "formula",
    [
        "16",  # no number of the problem
        "3 + 5 * 2",  # 13
        "(3 + 5) + 5 + 3",  # 2 is missing
        "(3 + 5) * 2 * 1",  # 1 is not given
        "(3 + 5) * 2 + 3 - 3",  # 3 three times
        "(3 + 5) * 2 = 16",  # an equation
        "8 * 2",
        "2**3 + 5 + 3",
        "--16",
        "35 - 2",
        "2(3 + 5)",
        "(3 + 5 * 2",
        "__import__('os')",
        "5 / (3 - 3) + 2",
        "",
        "(" * 90 + "3",
        "3" * 5000,
    ],
)
def test_wrong(formula):
    assert not solves(formula, [2, 3, 5], 16)


def test_division_is_exact():
    assert solves("1 / 3 * 3", [1, 3, 3], 1) and not solves("7 / 2", [2, 7], 3)


def test_it_is_called_as_rewards_are():
    reward = imported_reward("fastrl.smol.rewards.countdown")
    assert reward is countdown
    found = reward(
        prompts=["?"] * 4,
        completions=[
            "3 + 5 = 8\nThe answer is \\boxed{(3 + 5) * 2}.",
            [{"role": "assistant", "content": "\\boxed{2 * 8}"}],
            "(3 + 5) * 2",  # no box
            "\\boxed{4 - 1}",
        ],
        completion_ids=[[]] * 4,
        numbers=[[2, 3, 5]] * 3 + [[1, 4]],
        target=[16] * 3 + [3],
        solution=["(3 + 5) * 2"] * 3 + ["4 - 1"],
    )
    assert found == [1.0, 0.0, 0.0, 1.0]
