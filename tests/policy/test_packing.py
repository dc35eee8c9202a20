import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrl.policy.packing import microbatches, pack
from fastrl.types import TrainSequence

CPU = torch.device("cpu")


def test_pack_by_hand():
    # prompt 7 8, completion 9 4; prompt 5, completion 6
    batch = pack(
        [
            TrainSequence([7, 8, 9, 4], [False, False, True, True]),
            TrainSequence([5, 6], [False, True]),
        ],
        CPU,
    )
    assert batch.input_ids.tolist() == [7, 8, 9, 5]
    assert batch.position_ids.tolist() == [0, 1, 2, 0]
    assert batch.cu_seqlens.tolist() == [0, 3, 4] and batch.cu_seqlens.dtype == torch.int32
    assert batch.rows.tolist() == [1, 2, 3]
    assert batch.ids.tolist() == [9, 4, 6]
    assert batch.row_cu_seqlens.tolist() == [0, 2, 3]
    assert batch.max_seqlen == 3


def test_first_token_is_never_predicted():
    batch = pack([TrainSequence([3, 4], [True, True])], CPU)
    assert batch.ids.tolist() == [4]


def test_pack_refuses_what_cannot_be_trained():
    with pytest.raises(ValueError, match=r"\[pack\] token_ids"):
        pack([TrainSequence([1], [True])], CPU)
    with pytest.raises(ValueError, match=r"\[pack\] loss_mask: expected 2 entries"):
        TrainSequence([1, 2], [True])


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 80))
def test_microbatches_cover_everything_within_the_budget(lengths, budget):
    groups = microbatches(lengths, budget)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert sum(lengths[i] for i in group) <= budget or len(group) == 1


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8))
def test_rows_point_at_the_token_before(sizes):
    rng = np.random.default_rng(0)
    sequences = [
        TrainSequence(rng.integers(0, 99, p + c).tolist(), [False] * p + [True] * c) for p, c in sizes
    ]
    batch = pack(sequences, CPU)
    starts = batch.cu_seqlens.tolist()
    expected = [start + p - 1 + j for start, (p, c) in zip(starts, sizes, strict=False) for j in range(c)]
    assert batch.rows.tolist() == expected
