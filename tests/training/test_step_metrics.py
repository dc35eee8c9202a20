"""Metrics that show collapse without gold answers, by hand."""

import math

import pytest

from fastrl.training.metrics import answer_metrics, row_of, split_metrics
from fastrl.types import Rollout


def rollouts(*groups):
    """groups: (problem, [(text, reward)])."""
    found = []
    for number, (problem, members) in enumerate(groups):
        for text, reward in members:
            rollout = Rollout([problem], [1], [0.0], text, "stop", group=number, reward=reward)
            found.append(row_of(rollout))
    return found


def box(answer):
    return f"\\boxed{{{answer}}}"


def test_groups_with_a_signal():
    rows = rollouts(
        (1, [("", 1.0), ("", 1.0)]),
        (2, [("", 1.1), ("", 1.1)]),
        (3, [("", 0.0), ("", 0.0)]),
        (4, [("", 0.1), ("", 0.1)]),
        (1, [("", 1.0), ("", 0.0)]),
        (6, [("", math.nan), ("", math.nan)]),
        (7, [("", math.nan), ("", 1.0)]),
        (8, [("", 1.0), ("", 1.1)]),
    )
    # of the seven groups with rewards
    assert split_metrics(rows, solved=1.0) == pytest.approx(
        {"groups/too_easy": 3 / 7, "groups/too_hard": 2 / 7, "groups/effective": 2 / 7}
    )
    assert split_metrics(rows, solved=1.1)["groups/too_easy"] == pytest.approx(1 / 7)
    assert split_metrics(rollouts((1, [("", math.nan)])), solved=1.0) == {}


def answers(*groups):
    return answer_metrics(rollouts(*((p, [(text, 0.0) for text in texts]) for p, texts in groups)))


def share(*groups):
    found = answers(*groups)
    del found["answers/agreement"]
    return found


def test_agreement():
    # 2 of 3, 1 of 2 (a tie), 1 of 3 (two say nothing), none of 2
    groups = [(1, [box(3), box(4), box(3)]), (2, [box(5), box(6)]), (3, ["?", box(1), "?"]), (4, ["?", "?"])]
    assert answers(*groups)["answers/agreement"] == pytest.approx((2 / 3 + 1 / 2 + 1 / 3 + 0) / 4)
    # a problem drawn twice is one: 2 of 5
    assert answers((1, [box(3), box(4)]), (1, [box(3), box(5), box(6)])) == {"answers/agreement": 2 / 5}


def test_most_common_answer():
    name = "answers/most_common_share"
    # problems answer 3, 5 (a tie, stated first), 5; the fourth says nothing
    groups = [(1, [box(3), box(3), box(4)]), (2, [box(5), box(3)]), (3, [box(5)] * 2), (4, ["?", "\\boxed{"])]
    assert share(*groups) == {name: 2 / 4}
    # the same problem drawn again votes with its other group: 1 answers 5 now, by three to two
    assert share((1, [box(5)] * 3), *groups) == {name: 3 / 4}
    assert share(*((problem, [box(0)] * 4) for problem in range(5))) == {name: 1.0}
    assert share(*((problem, [box(problem)] * 4) for problem in range(5))) == {name: 1 / 5}
    assert share((1, ["the answer is 7."]), (2, [box("$7$")])) == {name: 1.0}


def test_where_it_says_nothing_it_is_left_out():
    assert share((1, [box(3)] * 4), (1, [box(3)] * 4)) == {}  # one problem alone
    assert share((1, ["?"]), (2, ["?"])) == {}


def test_rows_know_their_problem_by_its_prompt():
    first, again, other = (
        row_of(Rollout(p, [1], [0.0], "", "stop", group=0)) for p in ([1, 2], [1, 2], [2, 1])
    )
    assert first["problem"] == again["problem"] != other["problem"]
    assert first["answer"] is None
