"""rms_norm, silu_mul and rotate against numbers worked by hand; float32 (C++) against float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastrl.engine.tree.layer_ops import rms_norm, rotate, silu_mul

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
WIDTHS = (1, 7, 8, 40, 576)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@DTYPES
def test_rms_norm_by_hand(dtype):
    # mean of squares 12.5, with eps 3.5: sqrt(16) = 4
    x, weight = torch.tensor([[3.0, 4.0]], dtype=dtype), torch.tensor([2.0, 1.0], dtype=dtype)
    assert rms_norm(x, weight, 3.5).tolist() == [[1.5, 1.0]]


@DTYPES
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm_against_the_formula(dtype, width):
    x, weight = 3 * draw(5, width), draw(width)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    out = rms_norm(x.to(dtype), weight.to(dtype), 1e-5)
    torch.testing.assert_close(out.double(), exact, rtol=5e-7, atol=1e-7)


@DTYPES
def test_silu_mul_by_hand(dtype):
    # silu(ln 3) = ln 3 * 3/4, silu(-ln 3) = -ln 3 / 4
    log3 = math.log(3)
    out = silu_mul(torch.tensor([[log3, -log3, 4.0, 8.0]], dtype=dtype))
    torch.testing.assert_close(out, torch.tensor([[3 * log3, -2 * log3]], dtype=dtype))


@pytest.mark.parametrize("width", WIDTHS)
def test_silu_mul_against_float64(width):
    gate_up = 10 * draw(5, 2 * width)
    gate, up = gate_up.double().chunk(2, -1)
    torch.testing.assert_close(silu_mul(gate_up).double(), F.silu(gate) * up, rtol=1e-6, atol=1e-9)


@DTYPES
def test_silu_of_extremes(dtype):
    gate = torch.tensor([[0.0, -200.0, 200.0, torch.inf, torch.nan]], dtype=dtype)
    expected = torch.tensor([[0.0, 0.0, 200.0, torch.inf, torch.nan]], dtype=dtype)
    out = silu_mul(torch.cat([gate, torch.ones_like(gate)], 1))
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=0, atol=1e-30)


@DTYPES
def test_rotate_by_hand(dtype):
    # the first pair (1, 3) turns by a quarter, the second (2, 4) stays
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], dtype=dtype)
    out = rotate(x, torch.tensor([[0.0, 1.0]], dtype=dtype), torch.tensor([[1.0, 0.0]], dtype=dtype))
    assert out.tolist() == [[[-3.0, 2.0, 1.0, 4.0]]]


@DTYPES
@pytest.mark.parametrize("half", [1, 4, 20, 32])
def test_rotate_the_first_heads_of_wider_rows(dtype, half):
    wide = draw(6, 5, 2 * half).to(dtype)
    x, rest = wide[:, :3], wide[:, 3:].clone()
    angles = draw(6, half).to(dtype)
    a, b = x.double().chunk(2, -1)
    cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
    exact = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    out = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(wide[:, 3:], rest)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_results_do_not_depend_on_threads(num_threads):
    x, gate_up, heads, angles = draw(97, 576), draw(97, 1536), draw(97, 9, 64), draw(97, 32)
    weight = draw(576)

    def run() -> list[torch.Tensor]:
        rotated = rotate(heads.clone(), angles.cos(), angles.sin())
        return [rms_norm(x, weight, 1e-6), silu_mul(gate_up), rotated]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run()
        torch.set_num_threads(num_threads)
        together = run()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_bfloat16_goes_to_pytorch():
    x, weight = draw(2, 8).bfloat16(), draw(8).bfloat16()
    assert torch.equal(rms_norm(x, weight, 1e-6), F.rms_norm(x, (8,), weight, 1e-6))
