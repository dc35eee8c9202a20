"""The label reward: exact, nested and seeded noise; wrong labels are graded against."""

from types import SimpleNamespace

import pytest

from fastrl.config import LabelConfig
from fastrl.data import Problem
from fastrl.methods.weak.labels import LabelReward
from fastrl.methods.weak.noise import corrupted_places, label_for_sample

NUM = 11
GOLD = [str(i) for i in range(NUM)]
WRONG = [str(100 + i) for i in range(NUM)]


def problems(wrong=WRONG, column="wrong_label", first=0) -> list[Problem]:
    said = [[{"role": "user", "content": f"q{i}"}] for i in range(NUM)]
    return [
        Problem(index=first + i, messages=said[i], solution=GOLD[i], columns={column: wrong[i]})
        for i in range(NUM)
    ]


def make(grader, kind="fixed", share=0.3, seed=5, own=None, **options) -> LabelReward:
    config = LabelConfig(kind=kind, share=share, **options)
    return LabelReward(grader, config, problems() if own is None else own, seed)


def call(reward, items, answers, step=0, ids=None):
    extra, metrics = {}, {}
    rewards = reward(
        prompts=["q"] * len(items),
        completions=[f"\\boxed{{{answer}}}" for answer in answers],
        problem_ids=items,
        rollout_ids=ids,
        trainer_state=SimpleNamespace(global_step=step),
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    return rewards, extra, metrics


def bad_items(reward) -> list[int]:
    return [i for i, hit in enumerate(call(reward, range(NUM), GOLD)[1]["corrupted"]) if hit]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 3), (0.5, 5), (0.9, 9), (1.0, 11)])
def test_fixed_labels_are_exact_and_graded_against(grader, share, count):
    reward = make(grader, share=share)
    right, extra, metrics = call(reward, range(NUM), GOLD)
    wrong, _, _ = call(reward, range(NUM), WRONG)
    hit = corrupted_places(range(NUM), share, 5)
    assert len(hit) == count
    assert right == [float(i not in hit) for i in range(NUM)]
    assert wrong == [float(i in hit) for i in range(NUM)]  # the planted wrong label earns the reward
    assert extra["corrupted"] == [i in hit for i in range(NUM)]
    assert extra["label"] == [WRONG[i] if i in hit else GOLD[i] for i in range(NUM)]
    assert metrics == {"labels/corrupted": pytest.approx(count / NUM)}


def test_fixed_labels_do_not_change_with_the_step_and_are_nested(grader):
    small, large = make(grader, share=0.3), make(grader, share=0.7)
    first = call(small, range(NUM), GOLD, step=0)
    assert first == call(small, range(NUM), GOLD, step=9)
    bad_small, bad_large = (set(bad_items(each)) for each in (small, large))
    assert bad_small < bad_large
    others = {tuple(bad_items(make(grader, share=0.3, seed=seed))) for seed in range(6)}
    assert len(others) > 1


def test_an_item_is_its_row_and_not_its_position(grader):
    """The last four problems alone, asked in another order and twice: luck follows the row's number."""
    reward = make(grader, share=0.5, own=problems(first=40))
    hit = {40 + place for place in corrupted_places(range(40, 40 + NUM), 0.5, 5)}
    items = [43, 41, 43, 50]
    _, extra, _ = call(reward, items, ["0"] * 4)
    assert extra["corrupted"] == [item in hit for item in items]


def test_per_sample_flips_are_of_item_step_and_rollout(grader):
    reward = make(grader, kind="per_sample", share=0.4)
    items = [3] * 60
    _, extra, metrics = call(reward, items, ["3"] * 60, step=2, ids=range(100, 160))
    expected = [label_for_sample("3", "103", 0.4, 5, 3, 2, rollout) for rollout in range(100, 160)]
    assert extra["label"] == expected
    assert 12 <= expected.count("103") <= 36
    assert metrics["labels/corrupted"] == pytest.approx(expected.count("103") / 60)
    rewards, _, _ = call(reward, items, ["103"] * 60, step=2, ids=range(100, 160))
    assert rewards == [float(label == "103") for label in expected]
    assert call(reward, items, ["3"] * 60, step=3, ids=range(100, 160))[1]["label"] != expected
    everything, _, _ = call(make(grader, kind="per_sample", share=1.0), items, ["103"] * 60)
    nothing, _, _ = call(make(grader, kind="per_sample", share=0.0), items, ["103"] * 60)
    assert everything == [1.0] * 60 and nothing == [0.0] * 60


def test_false_negatives_affect_only_right_answers(grader):
    reward = make(grader, kind="false_negatives", share=0.5, own=problems(wrong=[None] * NUM, column="other"))
    hit = corrupted_places(range(NUM), 0.5, 5)
    right, extra, metrics = call(reward, range(NUM), GOLD)
    wrong, _, _ = call(reward, range(NUM), WRONG)
    assert right == [float(i not in hit) for i in range(NUM)] and wrong == [0.0] * NUM
    assert extra["label"] == GOLD and extra["corrupted"] == [i in hit for i in range(NUM)]
    assert metrics["labels/corrupted"] == pytest.approx(5 / NUM)


@pytest.mark.parametrize(
    ("options", "own", "message"),
    [
        (
            {"share": 0.3},
            problems(column="other"),
            r"\[labels\] column: expected one of the columns other, got 'wrong_label'",
        ),
        (
            {"share": 0.3},
            problems(wrong=[None] * 9 + ["1", "2"]),
            r"\[noise\] share: expected at most 2 of 11 items",
        ),
        (
            {"kind": "per_sample", "share": 0.3},
            problems(wrong=[*WRONG[:7], None, *WRONG[8:]]),
            r"\[labels\] column: expected a wrong label in column 'wrong_label' of every row, "
            r"got 'none in row 8'",
        ),
        (
            {"share": 1.0},
            problems(wrong=[*WRONG[:4], "4/1", *WRONG[5:]]),
            r"\[noise\] label of item 4: .*got '4/1'",
        ),
        ({"kind": "per_sample", "share": 0.1}, problems(wrong=GOLD), r"\[noise\] label of item 0: "),
        (
            {"share": 0.1},
            problems(wrong=[["a", "b"], *WRONG[1:]]),
            r"\[labels\] column: row 1: gold answer",
        ),
    ],
    ids=["no column", "too few", "a gap", "equal in value", "equal", "no text"],
)  # fmt: skip
def test_refusals(grader, options, own, message):
    with pytest.raises(ValueError, match=message):
        make(grader, own=own, **options)


def test_without_noise_no_column_is_needed(grader):
    for kind in ("fixed", "per_sample", "false_negatives"):
        reward = make(grader, kind=kind, share=0.0, own=problems(column="other"))
        rewards, _, metrics = call(reward, range(NUM), GOLD)
        assert rewards == [1.0] * NUM and metrics["labels/corrupted"] == 0
    with pytest.raises(ValueError, match=r"\[labels\] share: expected a number in \[0, 1\], got 1.1"):
        LabelConfig(share=1.1)
