"""prefix_attention: every implementation against the paths of a forest, one by one, in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from prefix_cases import CPU, OPTIONS, check, forests, grown, inputs, with_gradients
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from fastrl.kernels.prefix_attention import torch_impl
from fastrl.kernels.prefix_attention.dense import Dense
from fastrl.kernels.prefix_attention.library import prefix_attention_op
from fastrl.kernels.prefix_attention.pieces import pieces_of
from fastrl.kernels.prefix_attention.reference import visible
from fastrl.ops import TreeLayout, prefix_attention


def test_by_hand():
    # slot 0 is shared, 1 and 2 follow it; queries of 0 weigh all alike
    _, tree = grown([[7, 8], [7, 9]])
    q, k = torch.zeros(3, 1, 4), torch.randn(3, 1, 4)
    v = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    for backend in ("reference", "torch"):
        assert prefix_attention(q, k, v, tree, backend=backend).flatten().tolist() == [1.0, 1.5, 2.5]
        near = prefix_attention(q, k, v, tree, window=1, backend=backend)
        assert near.flatten().tolist() == [1.0, 2.0, 4.0]


def test_weights_by_hand():
    # scores 0 and log 3 (its key is log 3, the query 1, the scaling 1): weights 1/4 and 3/4
    _, tree = grown([[1, 2]])
    q, k = torch.ones(2, 1, 1), torch.tensor([0.0, np.log(3.0)], dtype=torch.float32).view(2, 1, 1)
    v = torch.tensor([8.0, 16.0]).view(2, 1, 1)
    for backend in ("reference", "torch"):
        out = prefix_attention(q, k, v, tree, scaling=1.0, backend=backend)
        torch.testing.assert_close(out.flatten(), torch.tensor([8.0, 14.0]))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", forests())
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.usefixtures("poisoned")
def test_forests(backend, name, options):
    softcap, window = OPTIONS[options]
    check(forests()[name], backend, softcap=softcap, window=window)
    check(forests()[name], backend, torch.float64, softcap=softcap, window=window)


@pytest.mark.parametrize("seed", range(8))
def test_random_forests(seed):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(0, 2, rng.integers(1, 12)).tolist() for _ in range(30)]
    sequences += [[3, *rng.integers(0, 9, 60).tolist()[: rng.integers(1, 60)]] for _ in range(5)]
    for backend in ("reference", "torch"):
        check(sequences, backend, torch.float64)
        check(sequences, backend, torch.float64, window=int(rng.integers(1, 30)))


@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (6, 2), (7, 1)])
@pytest.mark.parametrize("sizes", [(1, 1), (24, 24), (16, 5)])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_shapes(backend, heads, sizes):
    check(forests()["a long trunk"], backend, heads=heads, sizes=sizes, scaling=0.3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["a long trunk", "nothing shared", "shared by chance"])
def test_half_precision(name, dtype):
    for softcap, window in OPTIONS.values():
        check(forests()[name], "torch", dtype, softcap=softcap, window=window)


def test_large_scores():
    """Their exponentials overflow; the softmax does not."""
    for softcap in (None, 500.0):
        check(forests()["a long trunk"], "torch", torch.float64, softcap=softcap, scaling=200.0)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradcheck(options):
    softcap, window = OPTIONS[options]
    sequences = forests()["cuts of a rollout"][:5] + forests()["many short rows"][:5]
    _, tree = grown(sequences)
    tensors, _ = inputs(tree.num_slots, heads=(2, 1), sizes=(2, 2), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, k, v: prefix_attention(q, k, v, tree, softcap=softcap, window=window, backend="torch"),
        tensors,
        fast_mode=True,
    )


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1], [33, 0, 7, 64, 65, 2], [300, 10]])
def test_packed_is_attention_of_each_sequence(lengths):
    bounds = np.cumsum([0, *lengths])
    (q, k, v), grad = inputs(int(bounds[-1]), heads=(6, 3))
    tree = TreeLayout.packed(torch.from_numpy(bounds).int())
    got = with_gradients(lambda *x: prefix_attention(*x, tree), (q, k, v), grad)

    def alone(q, k, v):
        parts = [
            F.scaled_dot_product_attention(
                *(x[a:b].transpose(0, 1) for x in (q, k, v)), is_causal=True, enable_gqa=True
            ).transpose(0, 1)
            for a, b in pairwise(bounds)
            if b > a
        ]
        return torch.cat(parts)

    for a, b in zip(got, with_gradients(alone, (q, k, v), grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_strided_inputs_and_an_expanded_gradient():
    _, tree = grown(forests()["shared by chance"])
    (q, k, v), _ = inputs(tree.num_slots)
    strided = [x.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_() for x in (q, k, v)]
    for backend in ("reference", "torch"):
        even, uneven = (
            torch.autograd.grad(prefix_attention(*x, tree, backend=backend).sum(), x)
            for x in ((q, k, v), strided)
        )
        for a, b in zip(even, uneven, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_no_tokens():
    tree = TreeLayout.packed([0])
    (q, k, v), grad = inputs(0)
    for out in with_gradients(lambda *x: prefix_attention(*x, tree), (q, k, v), grad):
        assert out.shape[0] == 0


def test_what_one_tree_holds_does_not_reach_another():
    """Also not from where a padded call has no token."""
    sequences = forests()["nothing shared"]
    forest, tree = grown(sequences)
    tensors, grad = inputs(forest.num_slots)
    ill = forest.slots[: len(sequences[0])].tolist()
    with torch.no_grad():
        for each in tensors:
            each[ill] = float("nan")
    healthy = [slot for slot in range(forest.num_slots) if slot not in ill]
    for each in with_gradients(lambda *x: prefix_attention(*x, tree, backend="torch"), tensors, grad):
        assert each[healthy].isfinite().all() and each[ill].isnan().any()


def test_the_same_bits_again():
    for name in ("a long trunk", "shared by chance"):
        _, tree = grown(forests()[name])
        tensors, grad = inputs(tree.num_slots)
        first, second = (
            with_gradients(lambda *x, t=tree: prefix_attention(*x, t), tensors, grad) for _ in "ab"
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", forests())
def test_each_visible_pair_is_in_one_piece(name):
    forest, tree = grown(forests()[name])
    pieces = pieces_of(tree.segments, CPU)
    slots, seen = torch.arange(forest.num_slots), torch.zeros(forest.num_slots, forest.num_slots)
    standing = torch.zeros(forest.num_slots)
    for squares in pieces.squares:
        places = squares.take(slots)
        dropped = squares.dropped if squares.dropped is not None else torch.zeros(places.numel())
        for path, left_out in zip(places, dropped.view(places.shape), strict=True):
            for row, slot in enumerate(path.tolist()):
                if not left_out[row]:
                    standing[slot] += 1
                    seen[slot, path[: row + 1]] += 1
    for trunk in pieces.trunks:
        rows, depths = trunk.rows(None)
        assert depths.tolist() == forest.depths[slots[rows].numpy()].tolist()
        assert trunk.key_depths.tolist() == forest.depths[slots[trunk.keys].numpy()].tolist()
        seen[slots[rows][:, None], slots[trunk.keys]] += 1
    assert standing.eq(1).all()
    assert torch.equal(seen, visible(tree, None).float())


@pytest.mark.parametrize("window", [None, 1, 9])
@pytest.mark.parametrize("name", forests())
def test_tile_lists(name, window):
    """No visible pair is left out, no pair is called whole that is not, both directions list the same."""
    _, tree = grown(forests()[name])
    sees = visible(tree, window).numpy()
    query_tile, key_tile = 8, 4
    pairs = [set(), set()]
    for place, lists in enumerate(
        (tree.key_lists(query_tile, key_tile, window), tree.query_lists(query_tile, key_tile, window))
    ):
        for row, (begin, middle, end) in enumerate(lists.bounds.tolist()):
            for index in range(begin, end):
                other = int(lists.tiles[index])
                pair = (row, other) if place == 0 else (other, row)
                pairs[place].add((*pair, index < middle))
    assert pairs[0] == pairs[1]
    listed = np.zeros_like(sees)
    for query, key, whole in pairs[0]:
        tile = np.s_[query * query_tile : (query + 1) * query_tile, key * key_tile : (key + 1) * key_tile]
        listed[tile] = True
        assert sees[tile].all() or not whole
    assert not (sees & ~listed).any()


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made inside."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, tuple | list) else [out]) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *(x.numel() for x in made)])
        return out


@pytest.mark.parametrize("window", [None, 100])
def test_no_square_of_the_tokens_in_memory(window):
    tree = TreeLayout.packed([0, 1400, 2048])
    (q, k, v), grad = inputs(2048, heads=(1, 1), sizes=(4, 4))
    q, k, v = (each.detach() for each in (q, k, v))
    with Largest() as largest:
        out, lse = torch_impl.forward(q, k, v, tree.segments, Dense(0.5, None), window)
        torch_impl.backward(grad, q, k, v, out, lse, tree.segments, Dense(0.5, None), window)
    assert largest.elements <= 256 * 1400


@pytest.mark.parametrize("window", [None, 5])
def test_operator(window):
    _, tree = grown(forests()["a long trunk"])
    tensors, _ = inputs(tree.num_slots)
    arguments = (*tensors, tree.depths, tree.subtree_stop, tree.segments, [], 0.4, None, window, "torch")
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    opcheck(prefix_attention_op, arguments, test_utils=checks)


def test_refusals():
    tree = TreeLayout.packed([0, 4])
    (q, k, v), _ = inputs(4)
    for message, arguments, options in (
        (r"key: expected shape \(M, Hkv, K\), Hkv a divisor of 3, got \(4, 2, 8\)", (q[:, :3], k, v), {}),
        (r"key: expected shape \(4, 2, 8\), got \(3, 2, 8\)", (q, k[:3], v[:3]), {}),
        (r"value: expected shape \(4, 2, 8\), got \(4, 1, 8\)", (q, k, v[:, :1]), {}),
        (r"tree: expected one of 3 tokens, got one of 4", (q[:3], k[:3], v[:3]), {}),
        (r"softcap: expected > 0 or None, got 0", (q, k, v), {"softcap": 0}),
        (r"window: expected >= 1 or None, got 0", (q, k, v), {"window": 0}),
    ):
        with pytest.raises(ValueError, match=r"\[prefix_attention\] " + message):
            prefix_attention(*arguments, tree, **options)
    with pytest.raises(TypeError, match=r"\[prefix_attention\] key: expected torch.float32"):
        prefix_attention(q, k.double(), v, tree)
    with pytest.raises(
        ValueError, match=r"cu_seqlens: expected values from 0 that never fall, got \[0, 3, 2\]"
    ):
        TreeLayout.packed([0, 3, 2])
