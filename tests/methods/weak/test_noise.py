"""Label noise: exact, nested counts; one wrong label per item, which the grader can tell from the gold."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.methods.weak.noise import (
    corrupted_places,
    label_for_sample,
    most_frequent_wrong,
    noisy_labels,
    num_corrupted,
    random_labels,
    with_false_negatives,
)

SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
GOLD = [str(k % 10) for k in range(97)]
WRONG = [str((k + 3) % 10) for k in range(97)]


@pytest.mark.parametrize(
    "share, items, count",
    [
        (0.1, 2048, 204),  # as in the paper's files
        (0.3, 2048, 614),
        (0.29, 100, 29),  # 28.999999999999996 in binary
        (0.7, 10, 7),
        (0.3, 10, 3),
        (0.5, 3, 1),
        (0.0, 5, 0),
        (1.0, 5, 5),
        (1e-3, 999, 0),
        (0.9, 0, 0),
    ],
)
def test_counts_are_rounded_down(share, items, count):
    assert num_corrupted(share, items) == count
    assert len(corrupted_places(range(items), share, seed=0)) == count


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    for ask in (
        lambda: num_corrupted(share, 5),
        lambda: label_for_sample("1", "2", share, 0, item=0, step=0, sample=0),
    ):
        with pytest.raises(ValueError, match=r"\[noise\] share: expected a number in \[0, 1\]"):
            ask()


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=60), st.integers(0, 5))
def test_corrupted_at_one_share_is_corrupted_at_every_larger_one(items, seed):
    able = [item % 4 != 0 for item in items]
    before = frozenset()
    for share in SHARES:
        if num_corrupted(share, len(items)) > sum(able):
            with pytest.raises(ValueError, match=r"\[noise\] share: expected at most"):
                corrupted_places(items, share, seed, able)
            break
        places = corrupted_places(items, share, seed, able)
        assert before <= places and all(able[place] for place in places)
        before = places


def test_corruption_depends_on_the_item_not_on_its_position():
    items = list(range(40))
    found = {items[p] for p in corrupted_places(items, 0.3, seed=1)}
    turned = items[::-1]
    assert {turned[p] for p in corrupted_places(turned, 0.3, seed=1)} == found
    assert {items[p] for p in corrupted_places(items, 0.3, seed=2)} != found


def test_the_most_frequent_wrong_answer_and_its_ties():
    assert most_frequent_wrong({"3": 2, "5": 4, "6": 1}, 0, 0) == "5"
    assert most_frequent_wrong({}, 0, 0) is None
    tied = {"3": 2, "5": 2, "6": 1}
    chosen = Counter(most_frequent_wrong(tied, 0, item) for item in range(400))
    assert set(chosen) == {"3", "5"} and 150 < chosen["3"] < 250  # 200 +- 5 sigma
    backwards = dict(reversed(tied.items()))
    assert all(most_frequent_wrong(tied, 4, k) == most_frequent_wrong(backwards, 4, k) for k in range(40))


def test_labels_are_consistent_over_shares_and_counted():
    items = [1000 + k for k in range(97)]
    seen = {}
    for share in SHARES:
        labels = noisy_labels(GOLD, WRONG, share, 7, items)
        assert sum(each.corrupted for each in labels) == num_corrupted(share, 97)
        for item, each, gold in zip(items, labels, GOLD, strict=True):
            assert each.gold == gold and (each.label != gold) == each.corrupted
            assert not (item in seen and not each.corrupted)
            if each.corrupted:
                assert seen.setdefault(item, each.label) == each.label


def test_an_item_without_a_wrong_label_is_never_corrupted_and_still_counts():
    wrong = [None if k % 2 else label for k, label in enumerate(WRONG)]  # 49 have one
    labels = noisy_labels(GOLD, wrong, 0.5, 0, range(97))
    assert sum(each.corrupted for each in labels) == 48
    assert not any(each.corrupted for each in labels[1::2])
    with pytest.raises(ValueError, match=r"share: expected at most 49 of 97 items.*got 0\.7, which is 67"):
        noisy_labels(GOLD, wrong, 0.7, 0, range(97))


@pytest.mark.parametrize("gold, wrong", [("4", "4"), ("1/2", r"\frac{2}{4}"), ("4", "$4$."), ("4", "4.0")])
def test_noise_that_the_grader_can_not_see_is_refused(gold, wrong):
    """4.0 against 4 takes algebra: not sure, so refused too."""
    with pytest.raises(ValueError, match=r"\[noise\] label of item 5: expected one that surely differs"):
        noisy_labels([gold], [wrong], 1.0, 0, [5])
    assert noisy_labels([gold], [wrong], 0.9, 0, [5])[0].label == gold  # floor(0.9): nobody is corrupted


def test_random_labels_are_other_gold_answers_alike_likely():
    gold = ["3"] * 3000
    labels = random_labels(gold, GOLD, 0, range(3000))
    counts = Counter(labels)
    assert set(counts) == set("012456789")
    assert all(abs(count - 3000 / 9) < 5 * (3000 / 9 * 8 / 9) ** 0.5 for count in counts.values())


def test_random_labels_depend_only_on_the_item():
    labels = random_labels(GOLD, GOLD, 3, range(97))
    assert all(label != gold for label, gold in zip(labels, GOLD, strict=True))
    chosen = [90, 4, 17]
    assert random_labels([GOLD[k] for k in chosen], GOLD[::-1], 3, chosen) == [labels[k] for k in chosen]
    assert random_labels(GOLD, GOLD, 4, range(97)) != labels


def test_random_labels_keep_off_what_is_not_sure_to_differ():
    pool = ["1/2", "0.5", r"\frac{2}{4}", "x", "7"]
    assert set(random_labels(["1/2"] * 50, pool, 0, range(50))) == {"7"}
    told = random_labels(["1/2"] * 50, pool, 0, range(50), lambda pairs: [a in ("x", "7") for a, _ in pairs])
    assert set(told) == {"x", "7"}
    with pytest.raises(
        ValueError, match=r"\[noise\] pool: expected answers that surely differ from item 8's"
    ):
        random_labels(["7", "1"], ["7", "7."], 0, [8, 9])


def test_flips_are_drawn_for_every_rollout_and_nested():
    places = [(item, step, sample) for item in range(20) for step in range(10) for sample in range(10)]
    before = set()
    for share in SHARES:
        flipped = {
            place
            for place in places
            if label_for_sample("1", "2", share, 0, item=place[0], step=place[1], sample=place[2]) == "2"
        }
        assert before <= flipped
        assert abs(len(flipped) - 2000 * share) <= 5 * (2000 * share * (1 - share)) ** 0.5
        before = flipped
    some = {place for place in places if label_for_sample("1", "2", 0.3, 0, *place) == "2"}
    for part in range(3):  # no item, step or sample is flipped as a whole
        assert len({place[part] for place in some} & {place[part] for place in set(places) - some}) >= 10


def test_false_negatives_take_every_reward_of_their_items():
    assert with_false_negatives([1.0, 0.0, 0.5, 1.0], [7, 7, 8, 9], {7, 9}) == [0.0, 0.0, 0.5, 0.0]
    with pytest.raises(ValueError):
        with_false_negatives([1.0], [7, 8], {7})
