"""Elementary functions that Triton lacks, accurate for small results."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def expm1(x: tl.tensor) -> tl.tensor:
    """Return exp(x) - 1, float64. The logarithm in the denominator cancels exp's rounding error (Kahan)."""
    e = tl.exp(x)
    unit = e == 1
    kept = e - 1
    quotient = kept * (x / tl.where(unit | (e == 0), 1, tl.log(tl.where(e == 0, 1, e))))
    return tl.where(unit, x, tl.where(kept == -1, kept, quotient))


@triton.jit  # type: ignore[untyped-decorator]
def log1p(x: tl.tensor) -> tl.tensor:
    """Return log(1 + x) of a float64 x >= 0, in the same way."""
    grown = 1 + x
    unit = grown == 1
    return tl.where(unit, x, tl.log(grown) * (x / tl.where(unit, 1, grown - 1)))


@triton.jit  # type: ignore[untyped-decorator]
def tanh(x: tl.tensor) -> tl.tensor:
    """Return tanh(x), fp32, with relative error < 2e-7.

    x + x^3 * polynomial(x^2) for |x| < 0.8, otherwise (1 - e) / (1 + e) with e = exp(-2 |x|).
    """
    square = x * x
    p = tl.fma(square, 0.0015773912891745567, -0.0073953066021203995)
    p = tl.fma(p, square, 0.021292654797434807)
    p = tl.fma(p, square, -0.05384888872504234)
    p = tl.fma(p, square, 0.13332170248031616)
    p = tl.fma(p, square, -0.33333295583724976)
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    return tl.where(tl.abs(x) < 0.8, tl.fma(p * square, x, x), tl.where(x < 0, -far, far))


@triton.jit  # type: ignore[untyped-decorator]
def tanh_grad(x: tl.tensor) -> tl.tensor:
    """Return the derivative 1 - tanh(x)^2, fp32, accurate where tanh is close to 1."""
    e = tl.exp(-2 * tl.abs(x))
    return 4 * e / ((1 + e) * (1 + e))
