"""The kernels of triton_rows. bias, temperature, floor and grad_entropy are optional."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrl.kernels._triton_math import expm1, log1p, tanh, tanh_grad

LOWEST = tl.constexpr(-64.0)  # exp of less counts as 0, so that no gradient is subnormal
INFINITY = tl.constexpr(float("inf"))
FIRST_KEY = tl.constexpr(-0x7F800001)  # key of -inf
LAST_KEY = tl.constexpr(0x7FFFFFFF)
LENGTHS = ("stride", "width", "first", "vocab", "out_stride", "blocks", "top_k")
SCALARS = ("outward", "inward", "top_p")


@triton.jit  # type: ignore[untyped-decorator]
def _known(length: tl.tensor, ALIGNED: tl.constexpr) -> tl.tensor:
    """Return the length; with ALIGNED the compiler knows that it is a multiple of 8."""
    if ALIGNED:
        length = length // 8 * 8
    return length


@triton.jit  # type: ignore[untyped-decorator]
def _load_raw(logits: tl.tensor, bias: tl.tensor | None, columns: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Load raw logits with their bias, fp32."""
    raw = tl.load(logits + columns, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        raw += tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32)
    return raw


@triton.jit  # type: ignore[untyped-decorator]
def _to_z(raw: tl.tensor, outward: tl.tensor, inward: tl.tensor, CAPPED: tl.constexpr) -> tl.tensor:
    if CAPPED:
        raw = tanh(inward * raw)
    return outward * raw


@triton.jit  # type: ignore[untyped-decorator]
def _exp(shifted: tl.tensor) -> tl.tensor:
    return tl.where(shifted < LOWEST, 0.0, tl.exp(shifted))


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def score_kernel(
    logits: tl.tensor, stride: tl.tensor, width: tl.tensor, first: tl.tensor, ids: tl.tensor,
    bias: tl.tensor | None, temperature: tl.tensor | None, outward: tl.tensor, inward: tl.tensor,
    floor: tl.tensor | None,
    max: tl.tensor, others: tl.tensor, excluded: tl.tensor, weighted: tl.tensor, sum_z: tl.tensor,
    target: tl.tensor, total: tl.tensor, logprobs: tl.tensor, entropy: tl.tensor,
    self_certainty: tl.tensor, top1: tl.tensor, vocab: tl.tensor,
    CAPPED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Update the running scores of a row with the tile's columns; one program per row."""
    row = tl.program_id(0).to(tl.int64)
    ident = tl.load(ids + row)
    width = tl.where(ident < 0, 0, width)  # a skipped row reads nothing
    width, first = _known(width, ALIGNED), _known(first, ALIGNED)
    logits += row * _known(stride, ALIGNED)
    if bias is not None:
        bias += first
    if temperature is not None:
        outward = outward / tl.load(temperature + row).to(tl.float32)
    own = (ident - first).to(tl.int32)

    later = first > 0
    largest = tl.load(max + row, mask=later, other=-INFINITY).to(tl.float32)
    sum_others = tl.load(others + row, mask=later, other=0.0)
    sum_excluded = tl.load(excluded + row, mask=later, other=0.0)
    sum_weighted = tl.load(weighted + row, mask=later, other=0.0)
    sum_of_z = tl.load(sum_z + row, mask=later, other=0.0)
    own_z = tl.load(target + row, mask=later, other=0.0)
    if (own >= 0) & (own < width):
        own_z = _to_z(_load_raw(logits, bias, own, own < width), outward, inward, CAPPED).to(tl.float64)

    if floor is not None:
        end = tl.load(floor + row)
    for begin in range(0, width, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        inside = columns < width
        z = _to_z(_load_raw(logits, bias, columns, inside), outward, inward, CAPPED)
        sum_of_z += tl.sum(tl.where(inside, z, 0.0), 0).to(tl.float64)
        z = tl.where(inside, z, -INFINITY)
        block_max = tl.max(z, 0)
        if block_max > largest:
            # only -inf so far: the sums are 0, and the shift would be infinite
            moved = tl.where(largest == -INFINITY, 0.0, largest.to(tl.float64) - block_max)
            factor = tl.exp(moved)
            sum_weighted = factor * (sum_weighted + moved * sum_others)
            sum_others *= factor
            sum_excluded *= factor
            largest = block_max
        z = tl.where(columns == own, -INFINITY, z)
        shifted = z - tl.where(largest == -INFINITY, 0.0, largest)
        e = _exp(shifted)
        if floor is not None:
            outside = z < end
            sum_excluded += tl.sum(tl.where(outside, e, 0.0), 0).to(tl.float64)
            e = tl.where(outside, 0.0, e)
        sum_others += tl.sum(e, 0).to(tl.float64)
        sum_weighted += tl.sum(e * tl.where(shifted < LOWEST, LOWEST, shifted), 0).to(tl.float64)

    tl.store(max + row, largest.to(tl.float64))
    tl.store(others + row, sum_others)
    tl.store(excluded + row, sum_excluded)
    tl.store(weighted + row, sum_weighted)
    tl.store(sum_z + row, sum_of_z)
    tl.store(target + row, own_z)
    if first + width == vocab:
        shift = own_z - largest.to(tl.float64)
        own_e = tl.exp(shift)
        sum_e = sum_others + own_e
        log_sum = tl.where(shift == 0, log1p(sum_others), tl.log(sum_e))
        own_weighted = tl.where(own_e == 0, 0.0, own_e * shift)
        mean = sum_of_z / vocab
        uniform = tl.log(sum_e + sum_excluded) + largest.to(tl.float64) - mean - tl.log(vocab.to(tl.float64))
        tl.store(total + row, sum_e.to(tl.float32))
        tl.store(logprobs + row, (shift - log_sum).to(tl.float32))
        tl.store(entropy + row, (log_sum - (sum_weighted + own_weighted) / sum_e).to(tl.float32))
        tl.store(self_certainty + row, uniform.to(tl.float32))
        tl.store(top1 + row, shift >= 0)


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def gradient_kernel(
    logits: tl.tensor, stride: tl.tensor, width: tl.tensor, first: tl.tensor, ids: tl.tensor,
    bias: tl.tensor | None, temperature: tl.tensor | None, outward: tl.tensor, inward: tl.tensor,
    floor: tl.tensor | None,
    max: tl.tensor, total: tl.tensor, logprobs: tl.tensor, entropy: tl.tensor,
    grad_logprobs: tl.tensor, grad_entropy: tl.tensor | None,
    out: tl.tensor, out_stride: tl.tensor, blocks: tl.tensor,
    CAPPED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write the gradient of a tile; one program per block of a row, a row's blocks in sequence."""
    program = tl.program_id(0)
    row, columns = (program // blocks).to(tl.int64), program % blocks * BLOCK + tl.arange(0, BLOCK)
    width, first = _known(width, ALIGNED), _known(first, ALIGNED)
    inside = columns < width
    logprob_grad = tl.load(grad_logprobs + row).to(tl.float32)
    active = logprob_grad != 0
    if grad_entropy is not None:
        entropy_grad = tl.load(grad_entropy + row).to(tl.float32)
        active = active | (entropy_grad != 0)

    gradient = tl.zeros([BLOCK], tl.float32)
    if active:
        if bias is not None:
            bias += first
        if temperature is not None:
            outward = outward / tl.load(temperature + row).to(tl.float32)
        own = (tl.load(ids + row) - first).to(tl.int32)
        raw = _load_raw(logits + row * _known(stride, ALIGNED), bias, columns, inside)
        z = _to_z(raw, outward, inward, CAPPED)
        shifted = z - tl.load(max + row).to(tl.float32)
        sum_e = tl.load(total + row)
        p = _exp(shifted) / sum_e
        gradient = -p * logprob_grad
        if grad_entropy is not None:
            logp = tl.where(shifted < LOWEST, LOWEST, shifted) - tl.log(sum_e)
            gradient -= p * entropy_grad * (logp + tl.load(entropy + row))
        if floor is not None:
            gradient = tl.where(z < tl.load(floor + row), 0.0, gradient)
        if (own >= 0) & (own < width):
            logprob = tl.load(logprobs + row).to(tl.float64)
            own_gradient = -expm1(logprob) * logprob_grad
            if grad_entropy is not None:
                own_p = tl.exp(logprob)
                surprise = tl.where(own_p == 0, 0.0, own_p * (logprob + tl.load(entropy + row)))
                own_gradient -= surprise * entropy_grad
            gradient = tl.where(columns == own, own_gradient.to(tl.float32), gradient)
        gradient *= outward
        if CAPPED:
            gradient *= inward * tanh_grad(inward * raw)
    out += row * _known(out_stride, ALIGNED)
    tl.store(out + columns, gradient.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _key(z: tl.tensor) -> tl.tensor:
    """Return an int32 key that sorts like z, with one key for both zeros."""
    bits = tl.where(z == 0, 0.0, z).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit  # type: ignore[untyped-decorator]
def _measure(
    logits: tl.tensor, bias: tl.tensor | None, width: tl.tensor, outward: tl.tensor, inward: tl.tensor,
    largest: tl.tensor, end: tl.tensor, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Return (number and mass of tokens with key >= end, their smallest z, largest z of the others)."""
    count = tl.full((), 0, tl.int32)
    mass = tl.full((), 0.0, tl.float64)
    kept = tl.full((), INFINITY, tl.float32)
    dropped = tl.full((), -INFINITY, tl.float32)
    for begin in range(0, width, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        inside = columns < width
        z = _to_z(_load_raw(logits, bias, columns, inside), outward, inward, CAPPED)
        keeps = _key(z) >= end
        count += tl.sum((keeps & inside).to(tl.int32), 0)
        mass += tl.sum(tl.where(keeps & inside, _exp(z - largest), 0.0), 0).to(tl.float64)
        kept = tl.minimum(kept, tl.min(tl.where(keeps & inside, z, INFINITY), 0))
        dropped = tl.maximum(dropped, tl.max(tl.where(keeps | (inside == 0), -INFINITY, z), 0))
    return count, mass, kept, dropped


@triton.jit  # type: ignore[untyped-decorator]
def _bisect(
    logits: tl.tensor, bias: tl.tensor | None, width: tl.tensor, outward: tl.tensor, inward: tl.tensor,
    largest: tl.tensor, low: tl.tensor, inside_low: tl.tensor, need_count: tl.tensor, need_mass: tl.tensor,
    CAPPED: tl.constexpr, BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return (largest key such that tokens with keys >= it suffice, their number); `low` must suffice."""
    high = _key(largest) + 1
    inside_high = tl.full((), 0, tl.int32)
    while (high.to(tl.int64) - low > 1) & (inside_low - inside_high > 1):
        middle = ((low.to(tl.int64) + high) >> 1).to(tl.int32)
        count, mass, _, _ = _measure(logits, bias, width, outward, inward, largest, middle, CAPPED, BLOCK)
        if (count >= need_count) & (mass >= need_mass):
            low, inside_low = middle, count
        else:
            high, inside_high = middle, count
    return low, inside_low


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def floor_kernel(
    logits: tl.tensor, stride: tl.tensor, width: tl.tensor, bias: tl.tensor | None,
    temperature: tl.tensor | None, outward: tl.tensor, inward: tl.tensor,
    out: tl.tensor, top_k: tl.tensor, top_p: tl.float64,
    CAPPED: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write the lower end of a row's support; one program per row, read once per bisection step."""
    row = tl.program_id(0).to(tl.int64)
    width = _known(width, ALIGNED)
    logits += row * _known(stride, ALIGNED)
    if temperature is not None:
        outward = outward / tl.load(temperature + row).to(tl.float32)
    low, last = tl.full((), FIRST_KEY, tl.int32), tl.full((), LAST_KEY, tl.int32)
    _, _, _, largest = _measure(logits, bias, width, outward, inward, 0.0, last, CAPPED, BLOCK)
    inside = width
    if (top_k > 0) & (top_k < width):
        low, inside = _bisect(
            logits, bias, width, outward, inward, largest, low, inside, top_k, 0.0, CAPPED, BLOCK
        )
    if top_p < 1:
        _, mass, _, _ = _measure(logits, bias, width, outward, inward, largest, low, CAPPED, BLOCK)
        low, inside = _bisect(
            logits, bias, width, outward, inward, largest, low, inside, 0, top_p * mass, CAPPED, BLOCK
        )
    _, _, kept, dropped = _measure(logits, bias, width, outward, inward, largest, low, CAPPED, BLOCK)
    # adjacent floats have no midpoint
    middle = kept / 2 + dropped / 2
    end = tl.where(middle > dropped, middle, kept)
    tl.store(out + row, tl.where(dropped == -INFINITY, -INFINITY, end))
