"""Scarce data: bins and round-robins by hand, nesting, and the rules that the released files follow."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SHARED_DATA

from fastrl.data.order import ProblemOrder
from fastrl.data.rows import read_rows
from fastrl.methods.weak.subsets import difficulty_bins, round_robin, stratified_order

DATA = SHARED_DATA
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real benchmark files are not next to the checkout")
JUDGED_BY = "Llama-3.2-3B-Instruct"  # whose solve@16 the released files were made by


def released(size):
    rows = read_rows(str(DATA / f"sky_math_{size}.parquet"))
    return [row["extra_info"]["index"] for row in rows], [int(r["difficulty"][JUDGED_BY]) for r in rows]


def test_bins_by_hand():
    #            row: 0  1  2  3  4  5  6
    assert difficulty_bins([0, 3, 1, 4, 3, 1, 2], 4) == [[2, 5], [6], [1, 4]]
    assert difficulty_bins([], 2) == [[]]
    assert difficulty_bins([0, 2, 1], 2) == [[2]]


def test_a_round_robin_by_hand():
    assert round_robin([[2, 5, 7], [6], [], [1, 4]]) == [2, 6, 1, 5, 4, 7]
    assert round_robin([]) == round_robin([[], []]) == []


@pytest.mark.parametrize(
    "counts, samples, message",
    [
        ([1], 1, "num_samples: expected >= 2, got 1"),
        ([1, 5], 4, "num_correct: expected 0 to 4 for row 1, got 5"),
        ([-1], 4, "num_correct: expected 0 to 4 for row 0, got -1"),
    ],
)
def test_counts_that_can_not_be_are_refused(counts, samples, message):
    with pytest.raises(ValueError, match=rf"\[subset\] {message}"):
        difficulty_bins(counts, samples)


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(0, 3))
def test_every_prefix_is_as_even_as_it_can_be(counts, seed):
    order = stratified_order(counts, 6, seed)
    assert sorted(order) == [row for row, count in enumerate(counts) if 0 < count < 6]
    sizes = Counter(count for count in counts if 0 < count < 6)
    for size in range(len(order) + 1):
        taken = Counter(counts[row] for row in order[:size])
        most = max(taken.values(), default=0)
        # a bin that is more than one behind the fullest has run out
        assert all(taken[count] >= most - 1 or taken[count] == sizes[count] for count in sizes)


def test_within_a_visit_the_hardest_bin_comes_first():
    counts = [3, 1, 2, 2, 1, 3, 1]
    order = stratified_order(counts, 4, seed=0)
    assert [counts[row] for row in order] == [1, 2, 3, 1, 2, 3, 1]


def test_the_choice_depends_only_on_the_seed_and_the_row():
    counts = [1] * 50
    first, second = stratified_order(counts, 2, seed=0), stratified_order(counts, 2, seed=1)
    assert first != second and sorted(first) == sorted(second) == list(range(50))
    assert any(abs(first.index(row) - first.index(row + 1)) > 1 for row in range(0, 50, 2))
    # rows that leave the bin change nothing for those that stay
    fewer = [0 if row % 3 == 0 else 1 for row in range(50)]
    assert stratified_order(fewer, 2, seed=0) == [row for row in first if row % 3]


@needs_data
def test_the_released_files_are_nested_round_robins():
    (ids_8, bins_8), (ids_64, bins_64) = released(8), released(64)
    assert ids_8 == ids_8[:8] * 8 and bins_8[:8] == list(range(1, 9))
    bins = [[i for i, c in zip(ids_64, bins_64, strict=True) if c == count] for count in range(1, 16)]
    # in the order of the file, round_robin gives the file of 8, row for row
    assert round_robin(bins)[:8] == ids_8[:8]
    # and 64 = 4 whole visits, which the file lists bin by bin, and the hardest 4 bins once more
    by_round = round_robin(bins)
    assert sorted(by_round[:60]) == sorted(ids_64[:60]) and bins_64[:60] == sorted(bins_64[:60])
    assert by_round[60:] == ids_64[60:]


@needs_data
@pytest.mark.parametrize("size", [8, 15, 37, 60, 64])
def test_ours_have_the_released_files_difficulties(size):
    _, counts = released(64)
    found = Counter(counts[row] for row in stratified_order(counts, 16, seed=5)[:size])
    rounds, rest = divmod(size, 15)
    assert found == Counter({c: rounds + (c <= rest) for c in range(1, 16) if rounds + (c <= rest)})
    if size == 8:
        assert sorted(found) == sorted(released(8)[1][:8])
    if size == 64:
        assert found == Counter(counts)


def test_fewer_problems_than_a_batch_come_again_as_in_the_released_file():
    batch = ProblemOrder(8, seed=3).take(0, 64)
    assert all(sorted(batch[k : k + 8]) == list(range(8)) for k in range(0, 64, 8))
