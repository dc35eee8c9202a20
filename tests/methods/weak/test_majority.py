"""The majority reward: ties, groups without an answer, equal spellings, voters, repeated problems."""

import math

import pytest

from fastrl.grading import AnswerGrader
from fastrl.methods.weak.labels import surely_differ
from fastrl.methods.weak.majority import MajorityReward, Vote, vote


def box(answer: object) -> str:
    return f"so \\boxed{{{answer}}}"


def call(grader, texts, groups=None, **columns):
    extra, metrics = {}, {}
    rewards = MajorityReward(grader)(
        prompts=["q"] * len(texts),
        completions=texts,
        group_ids=groups,
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
        **columns,
    )
    return rewards, extra.get("pseudo_label"), metrics


@pytest.mark.parametrize(
    ("answers", "label", "agreement"),
    [
        (["7", "8", "7"], "7", 2 / 3),
        (["8", "7", "7", "8"], "8", 1 / 2),  # a tie: stated first
        (["7", "8", "8", "7", "9"], "7", 2 / 5),
        (["3", "\\frac{1}{2}", "1/2", "3", "2/4"], "\\frac{1}{2}", 3 / 5),  # one number, spelt as first
        (["1,000", "1000", "5"], "1,000", 2 / 3),
        ([None, "8", None, None], "8", 1.0),  # who says nothing has no vote
        ([None, None], None, math.nan),
        ([], None, math.nan),
    ],
)
def test_vote(grader, answers, label, agreement):
    found = vote(answers, grader)
    assert (found.label, found.agreement) == (label, pytest.approx(agreement, nan_ok=True))


def test_the_vote_by_plain_text_is_reported_next_to_it(grader):
    """0.5, 1/2 and 50 % of a half are one answer in three spellings."""
    assert vote(["0.5", "1/2", "3", "3", "\\frac{2}{4}"], grader) == Vote("0.5", 3 / 5, 2 / 5)
    _, _, metrics = call(grader, [box("0.5"), box("1/2"), box(3), box(3), box("2/4")], solution=["1/2"] * 5)
    assert metrics["majority/agreement"] == pytest.approx(3 / 5)
    assert metrics["majority/text_agreement"] == pytest.approx(2 / 5)
    assert metrics["majority/label_right"] == 1


def test_by_hand(grader):
    """Three groups of four: a tie, equal spellings, silence."""
    texts = [
        box(4), box(5), box(5), box(4),
        "no idea", box("\\frac{1}{2}"), "the answer is 1/2", box(3),
        "no", "\\boxed{}", "\\boxed{7", "",
    ]  # fmt: skip
    solution = ["5"] * 4 + ["0.5"] * 4 + ["7"] * 4
    rewards, labels, metrics = call(grader, texts, [9] * 4 + [2] * 4 + [5] * 4, solution=solution)
    assert rewards == [1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0]
    assert labels == ["4"] * 4 + ["\\frac{1}{2}"] * 4 + [None] * 4
    assert metrics["majority/agreement"] == pytest.approx((2 / 4 + 2 / 3) / 2)  # of groups that have a label
    assert metrics["majority/no_label"] == pytest.approx(1 / 3)
    assert metrics["majority/label_right"] == pytest.approx(1 / 3)  # 4 is not 5, 1/2 is 0.5, silence is wrong


def test_voters_decide_and_are_not_rewarded(grader):
    texts = [box(1), box(1), box(2)]
    alone, _, _ = call(grader, texts, [0] * 3)
    assert alone == [1, 1, 0]
    voters = [[box(2), box(2), "?"]] * 3
    rewards, labels, metrics = call(grader, texts, [0] * 3, voters=voters, solution=["1"] * 3)
    assert rewards == [0, 0, 1] and labels == ["2"] * 3
    assert metrics == {
        "majority/agreement": 3 / 5,
        "majority/text_agreement": 3 / 5,
        "majority/no_label": 0.0,
        "majority/label_right": 0.0,
    }
    # of a tie between a completion's answer and voters', the completion's was stated first
    rewards, labels, _ = call(grader, [box(1), "?"], [0] * 2, voters=[[box(2), box(3)]] * 2)
    assert labels == ["1"] * 2 and rewards == [1, 0]
    # voters alone may elect what no completion says
    rewards, labels, metrics = call(grader, ["?", "?"], [0] * 2, voters=[[box(2)]] * 2)
    assert labels == ["2"] * 2 and rewards == [0, 0] and metrics["majority/no_label"] == 0


def test_each_group_has_its_own_voters(grader):
    rewards, labels, _ = call(
        grader, [box(1), box(2), box(1), box(2)], [4, 4, 6, 6], voters=[[box(2)]] * 2 + [[box(1)]] * 2
    )
    assert labels == ["2", "2", "1", "1"] and rewards == [0, 1, 1, 0]


def test_groups_of_one_problem_vote_apart(grader):
    """One problem, three draws of it in a step: prompts alone would make them one group."""
    texts = [box(1), box(1), box(2), box(2), box(2), box(1)]
    apart, labels, _ = call(grader, texts, [0, 0, 1, 1, 2, 2])
    assert labels == ["1", "1", "2", "2", "2", "2"] and apart == [1, 1, 1, 1, 1, 0]
    together, labels, _ = call(grader, texts)  # another trainer numbers no groups
    assert labels == ["1"] * 6 and together == [1, 1, 0, 0, 0, 1]


def test_without_gold_and_without_rows(grader):
    _, _, metrics = call(grader, [box(1)], [0])
    assert set(metrics) == {"majority/agreement", "majority/text_agreement", "majority/no_label"}
    rewards, labels, metrics = call(grader, [], [], solution=[])
    assert (rewards, labels, metrics) == ([], [], {})
    assert MajorityReward(grader).__name__ == "majority"


def test_votes_and_labels_of_models_that_think_are_read_too():
    with AnswerGrader(num_workers=1, extraction="boxed_after_thought") as own:
        assert surely_differ(own, [("7", "8"), ("7", "7.0")]) == [True, False]
        texts = [r"<think>a</think>\boxed{7}", r"<think></think>\boxed{7}", r"\boxed{8}"]
        rewards, labels, metrics = call(own, texts, solution=["7"] * 3)
    assert labels == ["7"] * 3
    assert rewards == [1.0, 1.0, 0.0] and metrics["majority/label_right"] == 1.0
    assert metrics["majority/agreement"] == 1.0  # an answer without a thought has no vote
