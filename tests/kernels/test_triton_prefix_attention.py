"""prefix_attention's Triton kernels against the paths of forests; without a GPU in Triton's interpreter."""

from __future__ import annotations

import random

import pytest
import torch
from prefix_cases import OPTIONS, TOLERANCE, check, forests, group, grown, inputs, with_gradients

triton = pytest.importorskip("triton", reason="triton is not installed")
if not torch.cuda.is_available() and isinstance(triton.language.sum, triton.JITFunction):
    pytest.skip("no GPU, nor TRITON_INTERPRET=1 when triton was imported", allow_module_level=True)

from fastrl.kernels.prefix_attention import triton_impl  # noqa: E402
from fastrl.kernels.prefix_attention.triton_impl import Tile, Tiles  # noqa: E402
from fastrl.ops import TreeLayout, prefix_attention  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.float16 if torch.cuda.is_available() else torch.float32  # a GPU's kernels take no float32
# a trunk over several tiles, leaves that share one, beginnings that meet by chance
FOREST = [*group(random.Random(0), 40, (12, 9, 20)), *group(random.Random(1), 3, (5, 20), vocab=2)]


@pytest.fixture
def small_tiles(monkeypatch):
    """Many tiles for few tokens; no two of the same size."""
    tiles = Tiles(Tile(32, 16, 4), Tile(16, 32, 4), Tile(16, 64, 4))
    monkeypatch.setattr(triton_impl, "tiles_of", lambda head: tiles)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.usefixtures("poisoned", "small_tiles")
def test_options(options):
    softcap, window = OPTIONS[options]
    check(FOREST, "triton", DTYPE, device=DEVICE, softcap=softcap, window=window, heads=(2, 1))


@pytest.mark.parametrize("name", sorted(set(forests()) - {"many short rows", "a long trunk"}))
@pytest.mark.usefixtures("poisoned", "small_tiles")
def test_forests(name):
    check(forests()[name], "triton", DTYPE, device=DEVICE, heads=(1, 1))
    check(forests()[name], "triton", DTYPE, device=DEVICE, heads=(1, 1), window=9)


@pytest.mark.parametrize("sizes", [(24, 24), (96, 64), (8, 130)])
@pytest.mark.usefixtures("small_tiles")
def test_head_sizes(sizes):
    check(FOREST[3:], "triton", DTYPE, device=DEVICE, heads=(3, 3), sizes=sizes)


@pytest.mark.parametrize("head", [8, 80, 200])
def test_the_tiles_that_are_used(head):
    check(FOREST[:2], "triton", DTYPE, device=DEVICE, heads=(2, 1), sizes=(head, head))


@pytest.mark.usefixtures("small_tiles")
def test_half_precision():
    for dtype in (torch.bfloat16, torch.float16):
        check(FOREST[:2], "triton", dtype, device=DEVICE, heads=(2, 1), softcap=4.0)


@pytest.mark.usefixtures("small_tiles")
def test_large_scores():
    check(FOREST[:2], "triton", DTYPE, device=DEVICE, heads=(1, 1), softcap=150.0, scaling=20.0)


def test_by_hand():
    # slot 0 is shared, 1 and 2 follow it; queries of 0 weigh all alike
    _, tree = grown([[7, 8], [7, 9]], DEVICE)
    like = {"device": DEVICE, "dtype": DTYPE}
    q, k, v = (
        torch.zeros(3, 1, 4, **like),
        torch.randn(3, 1, 4, **like),
        torch.tensor([1.0, 2.0, 4.0], **like),
    )
    for window, wanted in ((None, [1.0, 1.5, 2.5]), (1, [1.0, 2.0, 4.0])):
        out = prefix_attention(q, k, v.view(3, 1, 1), tree, window=window, backend="triton")
        torch.testing.assert_close(out.flatten().float().cpu(), torch.tensor(wanted))


@pytest.mark.usefixtures("small_tiles")
def test_packed_strided_and_the_same_bits_again():
    tree = TreeLayout.packed([0, 1, 34, 66, 70], DEVICE)
    (q, k, v), grad = inputs(70, heads=(2, 2), dtype=DTYPE, device=DEVICE)
    strided = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in (q, k, v)]
    first, apart, second, wanted = (
        with_gradients(lambda *x, b=backend: prefix_attention(*x, tree, backend=b), tensors, grad)
        for tensors, backend in (
            ((q, k, v), "triton"), (strided, "triton"), ((q, k, v), "triton"), ((q, k, v), "reference")
        )
    )  # fmt: skip
    for a, b, c, d in zip(first, apart, second, wanted, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
        torch.testing.assert_close(a, d, rtol=TOLERANCE[DTYPE], atol=2 * TOLERANCE[DTYPE])


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
def test_float32_on_a_gpu_is_torchs():
    tree = TreeLayout.packed([0, 5], DEVICE)
    (q, k, v), _ = inputs(5, device=DEVICE)
    assert prefix_attention(q, k, v, tree).dtype == torch.float32
    with pytest.raises(RuntimeError, match="takes only bfloat16 and float16"):
        prefix_attention(q, k, v, tree, backend="triton")
