from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.ops import PrefixForest, prefix_tree

BACKENDS = ("cpp", "reference")
FIELDS = PrefixForest.__dataclass_fields__
# a small alphabet makes many shared prefixes; the large ones meet int32's end
token = st.sampled_from([0, 1, 2, 2**31 - 1, 2**31, 2**62])
sequence_lists = st.lists(st.lists(token, max_size=9), max_size=12)


def packed(sequences) -> tuple[np.ndarray, np.ndarray]:
    lengths = [len(sequence) for sequence in sequences]
    tokens = np.asarray([token for sequence in sequences for token in sequence], dtype=np.int64)
    return tokens, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))


def same(a: PrefixForest, b: PrefixForest) -> None:
    for field in FIELDS:
        assert getattr(a, field).dtype == np.int64
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


def prefixes_in_order(sequences) -> dict[tuple[int, ...], int]:
    """Slot of every distinct prefix. Pre-order sorts by the ranks, on each level, of first appearance."""
    first: dict[tuple[int, ...], int] = {}
    for sequence in sequences:
        for i in range(1, len(sequence) + 1):
            first.setdefault(tuple(sequence[:i]), len(first))
    ordered = sorted(first, key=lambda prefix: [first[prefix[:i]] for i in range(1, len(prefix) + 1)])
    return {prefix: slot for slot, prefix in enumerate(ordered)}


def test_hand_worked_and_documented():
    for backend in BACKENDS:
        forest = prefix_tree([[5, 6, 7], [5, 6], [5, 8], [9]], backend=backend)
        assert forest.tokens.tolist() == [5, 6, 7, 8, 9]
        assert forest.depths.tolist() == [0, 1, 2, 1, 0]
        assert forest.starts.tolist() == [0, 1, 2, 3, 4, 5]
        assert forest.parents.tolist() == [-1, 0, 1, 0, -1]
        assert forest.stops.tolist() == [4, 3, 3, 4, 5]
        assert forest.ends.tolist() == [2, 1, 3, 4]
        assert forest.counts.tolist() == [3, 2, 1, 1, 1]
        assert forest.slots.tolist() == [0, 1, 2, 0, 1, 0, 3, 4]
        assert forest.segment_of().tolist() == [0, 1, 2, 3, 4]
        assert forest.subtree_stop().tolist() == [4, 3, 3, 4, 5]
        assert forest.context_lengths().tolist() == [1, 2, 3, 2, 1]
        assert forest.path(2).tolist() == [0, 1, 2]
        assert forest.path(4).tolist() == [4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_of_several_tokens(backend):
    # 1 2 3 4 | 5 6 | 7      the cut after 4 is found before anything forks there, the fork at 2 splits again
    #     \ 8 9
    sequences = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], [1, 2, 8, 9], [], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4]]
    forest = prefix_tree(sequences, backend=backend)
    assert forest.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert forest.depths.tolist() == [0, 1, 2, 3, 4, 5, 6, 2, 3]
    assert forest.starts.tolist() == [0, 2, 4, 6, 7, 9]
    assert forest.parents.tolist() == [-1, 0, 1, 2, 0]
    assert forest.stops.tolist() == [5, 4, 4, 4, 5]
    assert forest.ends.tolist() == [2, 1, 4, -1, 3, 1]
    assert forest.counts.tolist() == [5, 4, 2, 1, 1]
    assert forest.slots.tolist() == [*range(6), *range(4), 0, 1, 7, 8, *range(7), *range(4)]
    assert forest.context_lengths().tolist() == [2, 4, 6, 7, 4]


@settings(max_examples=300, deadline=None)
@given(sequence_lists)
def test_cpp_against_the_reference(sequences):
    same(prefix_tree(sequences, backend="cpp"), prefix_tree(sequences, backend="reference"))


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(sequence_lists)
def test_slots_are_the_distinct_prefixes(backend, sequences):
    forest = prefix_tree(sequences, backend=backend)
    slot_of = prefixes_in_order(sequences)
    assert forest.num_slots == len(slot_of)
    assert forest.tokens.tolist() == [prefix[-1] for prefix in slot_of]
    assert forest.depths.tolist() == [len(prefix) - 1 for prefix in slot_of]
    expected = [slot_of[tuple(s[:i])] for s in sequences for i in range(1, len(s) + 1)]
    assert forest.slots.tolist() == expected
    stop = forest.subtree_stop()
    for a, j in slot_of.items():
        for b, i in slot_of.items():
            assert (j <= i < stop[j]) == (b[: len(a)] == a)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=150, deadline=None)
@given(sequence_lists)
def test_segments_end_only_at_forks_and_ends(backend, sequences):
    forest = prefix_tree(sequences, backend=backend)
    slot_of = prefixes_in_order(sequences)
    through = {prefix: sum(tuple(s[: len(prefix)]) == prefix for s in sequences) for prefix in slot_of}
    whole = {tuple(sequence) for sequence in sequences}
    children = {prefix: sum(other[:-1] == prefix for other in slot_of) for prefix in slot_of}
    last = [slot for prefix, slot in slot_of.items() if children[prefix] != 1 or prefix in whole]
    assert (forest.starts[1:] - 1).tolist() == last
    assert forest.starts[0] == 0
    prefix_at = list(slot_of)
    for segment, slot in enumerate(last):
        prefix, first = prefix_at[slot], prefix_at[forest.starts[segment]]
        above = forest.parents[segment]
        assert first[:-1] == (prefix_at[last[above]] if above >= 0 else ())
        assert forest.counts[segment] == through[prefix]
        assert forest.context_lengths()[segment] == len(prefix)
        on_path = {len(prefix_at[last[s]]) for s in forest.path(segment)}
        cuts = {len(other) for other in slot_of if prefix[: len(other)] == other and slot_of[other] in last}
        assert on_path == cuts
        below = [s for s, end in enumerate(last) if prefix_at[end][: len(prefix)] == prefix]
        assert below == list(range(segment, forest.stops[segment]))
    for sequence, end in zip(sequences, forest.ends, strict=True):
        assert end == (last.index(slot_of[tuple(sequence)]) if sequence else -1)


@settings(max_examples=100, deadline=None)
@given(sequence_lists, st.randoms(use_true_random=False))
def test_rows_below_a_segment_are_a_range(sequences, random):
    forest = prefix_tree(sequences)
    rows = np.asarray([random.randrange(3) for _ in range(forest.num_segments)], dtype=np.int64)
    start, stop = forest.row_ranges(rows)
    end_of_row = np.repeat(np.arange(forest.num_segments), rows)
    for segment in range(forest.num_segments):
        below = [r for r, end in enumerate(end_of_row) if segment in forest.path(int(end))]
        assert below == list(range(start[segment], stop[segment]))
    assert start.shape == stop.shape == (forest.num_segments,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cuts_of_rollouts_have_the_closed_form(backend):
    # L + G R K / (K + 1) = 33 + 8 * 60 * 4 / 5 = 417, cut at R k / (K + 1), and 1 + G K segments
    prompt, group, cuts, length = list(range(33)), 8, 4, 60
    rollouts = [[100 + g, *np.random.default_rng(g).integers(0, 50, length - 1)] for g in range(group)]
    sequences = [prompt + r[: length * k // (cuts + 1)] for r in rollouts for k in range(1, cuts + 1)]
    forest = prefix_tree(sequences, backend=backend)
    assert forest.num_slots == 417
    assert forest.num_segments == 33
    assert forest.counts.tolist() == [32, *(4, 3, 2, 1) * 8]
    assert forest.ends.tolist() == list(range(1, 33))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sequences", [[], [[]], [[], [], []]])
def test_nothing(backend, sequences):
    forest = prefix_tree(sequences, backend=backend)
    assert (forest.num_slots, forest.num_segments, forest.num_sequences) == (0, 0, len(sequences))
    assert forest.starts.tolist() == [0]
    assert forest.ends.tolist() == [-1] * len(sequences)
    assert [len(column) for column in forest.row_ranges(np.empty(0, dtype=np.int64))] == [0, 0]
    for field in FIELDS:
        assert getattr(forest, field).dtype == np.int64


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_token_and_duplicates(backend):
    forest = prefix_tree([[2**31 - 1]] * 3, backend=backend)
    assert forest.tokens.tolist() == [2**31 - 1]
    assert forest.counts.tolist() == [3]
    assert forest.slots.tolist() == [0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_deep_chains_and_wide_forks(backend):
    # a chain cut at every token: a segment each, the deepest path 900 segments long
    chain = np.arange(900)
    forest = prefix_tree([chain[:i] for i in (*range(900, 450, -1), *range(451))], backend=backend)
    assert forest.parents.tolist() == list(range(-1, 899))
    assert forest.counts.tolist() == list(range(900, 0, -1))
    assert forest.stops.tolist() == [900] * 900
    wide = np.stack([np.full(5000, 3), np.random.default_rng(0).permutation(5000)], 1)
    forest = prefix_tree(list(wide), backend=backend)
    assert forest.tokens.tolist() == [3, *wide[:, 1]]
    assert forest.ends.tolist() == list(range(1, 5001))


def test_long_runs_are_compared_to_the_last_token():
    # lengths around the 64 tokens that are compared at once
    base = np.arange(200)
    for at in (0, 1, 62, 63, 64, 65, 127, 128, 129, 199):
        other = base.copy()
        other[at] = 7777
        forest = prefix_tree([base, other])
        assert forest.num_slots == 400 - at
        same(forest, prefix_tree([base, other], backend="reference"))


def test_large_ragged_input():
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 3, rng.integers(0, 40)) for _ in range(400)]
    rows += [np.concatenate((rows[rng.integers(400)], rng.integers(0, 9, 150))) for _ in range(100)]
    order = rng.permutation(500)
    sequences = [rows[i] for i in order]
    same(prefix_tree(sequences, backend="cpp"), prefix_tree(sequences, backend="reference"))


def test_the_ways_to_give_sequences():
    sequences = [[4, 5, 6], [], [4, 5], [7]]
    expected = prefix_tree(sequences)
    tokens, bounds = packed(sequences)
    strided = np.repeat(tokens, 2)[::2]
    for given_ in (
        tuple(sequences),
        [np.asarray(s, dtype=np.int32) for s in sequences],
        [torch.tensor(s, dtype=torch.int64) for s in sequences],
        [range(4, 7), (), [np.int64(4), 5], bytes([7])],
        (tokens, bounds),
        (strided, bounds.astype(np.int32)),
        (torch.from_numpy(tokens), torch.from_numpy(bounds).int()),
    ):
        same(prefix_tree(given_), expected)
    two = prefix_tree([np.asarray([1, 2]), np.asarray([1, 3])])
    assert (two.num_sequences, two.num_slots) == (2, 3)


def test_every_value_is_written(monkeypatch):
    expected = prefix_tree([[1, 2], [1], [], [3, 4, 5]])
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *args, **kwargs: np.full_like(empty(*args, **kwargs), -77))
    same(prefix_tree([[1, 2], [1], [], [3, 4, 5]]), expected)


ONE = np.asarray([1, 2, 3])


@pytest.mark.parametrize(
    ("sequences", "error", "words"),
    [
        ([[1, -2]], ValueError, "tokens: expected >= 0, got -2 at 1"),
        ((np.asarray([3, -1]), np.asarray([0, 2])), ValueError, "tokens: expected >= 0, got -1 at 1"),
        ((ONE, np.asarray([1, 3])), ValueError, "cu_seqlens: expected to run from 0 to 3, got 1 to 3"),
        ((ONE, np.asarray([0, 2])), ValueError, "cu_seqlens: expected to run from 0 to 3, got 0 to 2"),
        ((ONE, np.asarray([0, 4])), ValueError, "cu_seqlens: expected to run from 0 to 3, got 0 to 4"),
        ((ONE, np.asarray([0, 2, 1, 3])), ValueError, r"cu_seqlens: expected values that .* \[2 1\] at 1"),
        ((ONE, np.asarray([0, 9, 3])), ValueError, "cu_seqlens: expected values that never fall"),
        ((ONE, np.empty(0, dtype=np.int64)), ValueError, r"cu_seqlens: expected shape \(S \+ 1,\)"),
        ((ONE, np.asarray([[0, 3]])), ValueError, "cu_seqlens: expected one dimension"),
        ((ONE.astype(np.int32), np.asarray([0, 3])), TypeError, "tokens: expected int64, got int32"),
        ((ONE.astype(float), np.asarray([0, 3])), TypeError, "tokens: expected int64, got float64"),
        ((ONE, np.asarray([0.0, 3.0])), TypeError, "cu_seqlens: expected int32 or int64, got float64"),
        ((ONE[None], np.asarray([0, 3])), ValueError, r"tokens: expected one dimension, got shape \(1, 3\)"),
        ([[1], [1.5]], TypeError, r"sequences\[1\]: expected token ids"),
        ([["a"]], TypeError, r"sequences\[0\]: expected token ids"),
        ([1, 2], TypeError, r"sequences\[0\]: expected token ids"),
        ([[1], [2**63]], ValueError, r"sequences\[1\]: expected tokens below 2\^63"),
        ([np.zeros(2)], TypeError, r"sequences\[0\]: expected int32 or int64, got float64"),
    ],
)
def test_refusals(sequences, error, words):
    with pytest.raises(error, match=rf"\[prefix_tree\] {words}"):
        prefix_tree(sequences)


def test_backends_are_strict():
    with pytest.raises(ValueError, match=r"\[prefix_tree\] backend: expected auto or one of"):
        prefix_tree([[1]], backend="triton")
