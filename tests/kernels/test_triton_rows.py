"""Triton's row math against float64, in tiles of every cut; without a GPU in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from fastrl.kernels._rows import RowScores, Tile

triton = pytest.importorskip("triton", reason="triton is not installed")
if not torch.cuda.is_available() and isinstance(triton.language.sum, triton.JITFunction):
    pytest.skip("no GPU, nor TRITON_INTERPRET=1 when triton was imported", allow_module_level=True)

from fastrl.kernels.linear_logprob.triton_rows import TritonRows  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("logprobs", "entropy", "self_certainty")
VOCABS = (1, 11, 257, 1000, 32003)
OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"logit_scale": 0.3, "temperature": 0.7},
    "softcap": {"softcap": 5.0, "logit_scale": 1.7, "temperature": 1.3, "bias": True},
    "temperatures": {"temperature": torch.tensor([0.5, 1.0, 2.0], device=DEVICE)},
    "capped temperatures": {"temperature": torch.tensor([0.5, 1.0, 2.0], device=DEVICE), "softcap": 8.0},
}


def make(logits, ids, *, bias=None, temperature=1.0, logit_scale=1.0, softcap=None, floor=None) -> Tile:
    if bias is True:
        bias = torch.randn(logits.shape[1], device=logits.device)
    return Tile(logits, 0, ids, bias, temperature, logit_scale, softcap, floor)


def random_tile(vocab: int, rows: int = 3, dtype=torch.float32, **options) -> Tile:
    logits = (4 * torch.randn(rows, vocab, device=DEVICE)).to(dtype)
    return make(logits, torch.randint(vocab, (rows,), device=DEVICE), **options)


def cut(tile: Tile, *ends: int) -> list[Tile]:
    """Tiles of the columns between 0, the ends and the last; copies whose rows lie apart."""
    tiles, begin = [], 0
    for end in (*ends, tile.logits.shape[1]):
        apart = torch.full((len(tile.ids), end - begin + 5), math.nan, device=DEVICE, dtype=tile.logits.dtype)
        apart[:, : end - begin] = tile.logits[:, begin:end]
        tiles.append(dataclasses.replace(tile, logits=apart[:, : end - begin], first=begin))
        begin = end
    return tiles


def score(tile: Tile, *ends: int) -> RowScores:
    rows, vocab = tile.logits.shape
    scores = RowScores.empty(rows, tile.logits.device)
    for part in cut(tile, *ends) if ends else [tile]:
        TritonRows().score(part, scores, vocab)
    return scores


def oracle_z(tile: Tile, raw: torch.Tensor | None = None) -> torch.Tensor:
    z = (tile.logits if raw is None else raw).double()
    if tile.bias is not None:
        z = z + tile.bias.double()
    z = z * tile.logit_scale
    if tile.softcap is not None:
        z = tile.softcap * torch.tanh(z / tile.softcap)
    return z / (
        tile.temperature[:, None].double() if isinstance(tile.temperature, torch.Tensor) else tile.temperature
    )


def oracle(tile: Tile, raw: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    z, ids = oracle_z(tile, raw), tile.ids[:, None]
    own = torch.zeros_like(z, dtype=torch.bool).scatter_(1, ids, True)
    support = own if tile.floor is None else own | (z >= tile.floor[:, None])
    if tile.floor is None:
        support = torch.ones_like(own)
    logp = torch.where(support, z, -math.inf).log_softmax(-1)
    known = torch.where(logp > -math.inf, logp, 0)
    return {
        "logprobs": logp.gather(1, ids)[:, 0],
        "entropy": -(logp.exp() * known).sum(-1),
        "self_certainty": -z.log_softmax(-1).mean(-1) - math.log(z.shape[1]),
        "top1": z.gather(1, ids)[:, 0] >= z.amax(-1),
    }


def assert_scores(scores: RowScores, tile: Tile) -> None:
    expected = oracle(tile)
    for name in NAMES:
        torch.testing.assert_close(
            getattr(scores, name).double(), expected[name], rtol=2e-6, atol=4e-6, equal_nan=True, msg=name
        )
    assert scores.top1.tolist() == expected["top1"].tolist()


def gradient(tile: Tile, scores: RowScores, by_logprob, by_entropy=None, dtype=torch.float32) -> torch.Tensor:
    out = torch.full(tile.logits.shape, math.nan, dtype=dtype, device=DEVICE)
    TritonRows().gradient(tile, scores, by_logprob, by_entropy, out)
    return out


def oracle_gradient(tile: Tile, by_logprob, by_entropy=None) -> torch.Tensor:
    raw = tile.logits.double().requires_grad_()
    values = oracle(tile, raw)
    loss = (by_logprob.double() * values["logprobs"]).sum()
    if by_entropy is not None:
        loss = loss + (by_entropy.double() * values["entropy"]).sum()
    return torch.autograd.grad(loss, raw)[0]


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("options", OPTIONS)
def test_scores(vocab, options, poisoned):
    tile = random_tile(vocab, **OPTIONS[options])
    assert_scores(score(tile), tile)


@pytest.mark.parametrize(
    "vocab, ends", [(11, (1, 3)), (257, (256,)), (1000, (13, 500, 501)), (32003, (9000, 9008))]
)
@pytest.mark.parametrize("options", ["plain", "softcap"])
def test_scores_of_tiles(vocab, ends, options, poisoned):
    tile = random_tile(vocab, **OPTIONS[options])
    tile.ids[0], tile.ids[1] = 0, vocab - 1
    assert_scores(score(tile, *ends), tile)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_half_logits(dtype):
    tile = random_tile(1000, dtype=dtype)
    assert_scores(score(tile), tile)


@pytest.mark.parametrize("vocab, ends", [(11, ()), (1000, (300, 301)), (20000, (9000,))])
@pytest.mark.parametrize("by_entropy", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients(vocab, ends, by_entropy, options, poisoned):
    tile = random_tile(vocab, **OPTIONS[options])
    scores, slopes = score(tile, *ends), torch.randn(3, device=DEVICE)
    entropy_slopes = torch.randn(3, device=DEVICE) if by_entropy else None
    parts = [gradient(part, scores, slopes, entropy_slopes) for part in cut(tile, *ends)]
    expected = oracle_gradient(tile, slopes, entropy_slopes)
    torch.testing.assert_close(torch.cat(parts, 1).double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gradients_go_into_any_dtype(dtype):
    tile, slopes = random_tile(1000), torch.randn(3, device=DEVICE)
    out = gradient(tile, score(tile), slopes, dtype=dtype)
    exact = gradient(tile, score(tile), slopes)
    # The interpreter cuts bfloat16 off where a GPU rounds.
    torch.testing.assert_close(out.float(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)


def test_gradients_may_replace_the_logits():
    tile, slopes = random_tile(5000), torch.randn(3, device=DEVICE)
    scores = score(tile)
    expected = gradient(tile, scores, slopes, slopes)
    TritonRows().gradient(tile, scores, slopes, slopes, tile.logits)
    assert torch.equal(tile.logits, expected)


def test_a_sure_token_has_an_exact_gradient():
    # p is 1 - 2e-9: 1 - p, rounded in fp32, would be 0
    tile = make(torch.tensor([[20.0, 0.0, -3.0]], device=DEVICE), torch.tensor([0], device=DEVICE))
    one = torch.ones(1, device=DEVICE)
    out = gradient(tile, score(tile), one)
    torch.testing.assert_close(out.double(), oracle_gradient(tile, one), rtol=1e-5, atol=0)
    assert score(tile).logprobs.item() < 0


@pytest.mark.parametrize("by_entropy", [False, True])
def test_rows_without_gradients_get_zeros(by_entropy):
    tile = random_tile(300)
    tile.logits[1] = math.nan
    scores, slopes = score(tile), torch.tensor([1.0, 0.0, 0.0], device=DEVICE)
    entropy_slopes = torch.tensor([0.0, 0.0, 1.0], device=DEVICE) if by_entropy else None
    out = gradient(tile, scores, slopes, entropy_slopes)
    assert out[1].eq(0).all() and out.isfinite().all()
    assert out[0].any() and bool(out[2].any()) == by_entropy


@pytest.mark.parametrize("ends", [(), (3, 700)])
def test_minus_infinity(ends):
    tile = random_tile(1000)
    tile.logits[0, :800] = -math.inf
    tile.logits[1, 5:] = -math.inf
    tile.ids.copy_(torch.tensor([900, 600, 10]))
    tile.logits[2, 11:] = -math.inf
    scores = score(tile, *ends)
    expected = oracle(tile)
    assert scores.logprobs[1].item() == -math.inf
    for name in ("logprobs", "entropy"):
        torch.testing.assert_close(getattr(scores, name).double(), expected[name], rtol=2e-6, atol=4e-6)
    assert scores.self_certainty.isposinf().all()
    slopes = torch.ones(3, device=DEVICE)
    out = gradient(tile, scores, slopes, slopes)
    kept = [0, 2]
    assert out.isfinite().all()
    torch.testing.assert_close(
        out[kept].double(), oracle_gradient(tile, slopes, slopes)[kept], rtol=2e-5, atol=2e-6, equal_nan=True
    )


@pytest.mark.parametrize("ends", [(), (3, 70)])
def test_large_logits(ends):
    tile = random_tile(100)
    tile.logits[0, 7], tile.logits[1, 8], tile.logits[2] = 1e4, -1e4, 1e4
    tile.logits[2, 50] = 1e4 + 1
    tile.ids.copy_(torch.tensor([8, 8, 50]))
    scores, expected = score(tile, *ends), oracle(tile)
    for name in NAMES:
        torch.testing.assert_close(getattr(scores, name).double(), expected[name], rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("place", [0, 50, 99])
@pytest.mark.parametrize("ends", [(), (40, 60)])
def test_nan_logits_give_nan(place, ends):
    tile = random_tile(100)
    tile.ids.fill_(50)
    tile.logits[1, place] = math.nan
    scores = score(tile, *ends)
    assert scores.logprobs.isnan().tolist() == [False, True, False]
    assert scores.entropy.isnan().tolist() == [False, True, False]
    assert gradient(tile, scores, torch.ones(3, device=DEVICE))[1].isnan().all()


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("vocab", [1, 17])
def test_few_rows(rows, vocab):
    tile = random_tile(vocab, rows)
    scores = score(tile)
    assert scores.logprobs.shape == (rows,)
    assert gradient(tile, scores, torch.ones(rows, device=DEVICE)).shape == (rows, vocab)
    assert TritonRows().floors(tile, 3, 0.5).shape == (rows,)


def test_same_bits_twice():
    tile = random_tile(9001, bias=True, softcap=10.0)
    first, second = score(tile), score(tile)
    for name in RowScores.__slots__:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def support(tile: Tile, top_k: int, top_p: float) -> torch.Tensor:
    """By sorting: ties with the last one stay in."""
    z = oracle_z(tile)
    if 0 < top_k < z.shape[1]:
        z = torch.where(z >= z.topk(top_k).values[:, -1:], z, -math.inf)
    ordered = z.sort(-1, descending=True).values
    p = ordered.softmax(-1)
    keep = (p.cumsum(-1) - p < top_p) | (top_p == 1)
    keep &= ordered > -math.inf
    last = torch.where(keep, ordered, math.inf).amin(-1, keepdim=True)
    return z >= last


@pytest.mark.parametrize(
    "top_k, top_p", [(0, 1.0), (1, 1.0), (5, 1.0), (0, 0.6), (20, 0.8), (0, 1e-6), (500, 0.9)]
)
@pytest.mark.parametrize("options", ["plain", "softcap", "temperatures"])
def test_floors(top_k, top_p, options):
    tile = random_tile(300, **OPTIONS[options])
    floor = TritonRows().floors(tile, top_k, top_p)
    z, inside = oracle_z(tile), support(tile, top_k, top_p)
    assert torch.equal(z >= floor[:, None], inside)
    least, most = torch.where(inside, z, math.inf).amin(-1), torch.where(inside, -math.inf, z).amax(-1)
    torch.testing.assert_close(floor.double(), (least + most) / 2, rtol=1e-6, atol=1e-6)
    assert floor.isneginf().all() == inside.all()


def test_floors_keep_ties():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0], [0.0, -0.0, 0.0, -0.0, -1.0, -1.0]], device=DEVICE)
    tile = make(logits, torch.tensor([0, 0], device=DEVICE))
    assert TritonRows().floors(tile, 2, 1.0).tolist() == [1.5, -0.5]
    assert TritonRows().floors(tile, 0, 0.7).tolist() == [1.5, -0.5]
    assert TritonRows().floors(tile, 6, 1.0).isneginf().all()


def test_floors_between_neighbours():
    above = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    tile = make(torch.tensor([[1.0, above]], device=DEVICE), torch.tensor([0], device=DEVICE))
    assert TritonRows().floors(tile, 1, 1.0).item() == above


def test_floors_of_minus_infinity():
    logits = torch.full((2, 40), -math.inf, device=DEVICE)
    logits[0, :4] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    tile = make(logits, torch.tensor([0, 0], device=DEVICE))
    assert TritonRows().floors(tile, 2, 1.0).tolist() == [2.5, -math.inf]
    assert TritonRows().floors(tile, 8, 0.999999).tolist()[1] == -math.inf


@pytest.mark.parametrize("ends", [(), (100, 101)])
def test_support(ends, poisoned):
    tile = random_tile(300, temperature=0.8)
    tile = dataclasses.replace(tile, floor=TritonRows().floors(tile, 20, 0.9))
    tile.ids[1] = oracle_z(tile)[1].argmin()  # outside, but its own
    scores, slopes = score(tile, *ends), torch.randn(3, device=DEVICE)
    assert_scores(scores, tile)
    parts = [gradient(part, scores, slopes, slopes) for part in cut(tile, *ends)]
    out, expected = torch.cat(parts, 1), oracle_gradient(tile, slopes, slopes)
    torch.testing.assert_close(out.double(), expected, rtol=2e-5, atol=2e-6)
    assert torch.equal(out == 0, expected == 0)
