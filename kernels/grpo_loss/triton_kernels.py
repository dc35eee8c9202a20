"""The kernels of triton_tokens, in float64. `tl.tensor | None` marks optional arguments."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrl.kernels._tokens import STATS
from fastrl.kernels._triton_math import expm1

LIMIT = tl.constexpr(20.0)  # clamp of log-ratios
INFINITY = tl.constexpr(float("inf"))
NUM_STATS = tl.constexpr(len(STATS))
# bit masks of STATS that are a minimum or a maximum, not a sum
MINIMA = tl.constexpr(sum(1 << i for i, name in enumerate(STATS) if name.endswith("_min")))
MAXIMA = tl.constexpr(sum(1 << i for i, name in enumerate(STATS) if name.endswith("_max")))
LENGTHS = ("num_tokens", "num_positions", "num_sequences", "steps", "blocks")
SCALARS = ("low", "high", "dual_clip", "kl_coef", "entropy_coef", "cap", "denominator")


@triton.jit  # type: ignore[untyped-decorator]
def _clamp(log_ratio: tl.tensor) -> tl.tensor:
    return tl.where(log_ratio > LIMIT, LIMIT, tl.where(log_ratio < -LIMIT, -LIMIT, log_ratio))


@triton.jit  # type: ignore[untyped-decorator]
def _load(values: tl.tensor, positions: tl.tensor, mask: tl.tensor) -> tl.tensor:
    return tl.load(values + positions, mask=mask, other=0.0).to(tl.float64)


@triton.jit  # type: ignore[untyped-decorator]
def _positions(
    rows: tl.tensor | None, computed: tl.tensor, token: tl.tensor, inside: tl.tensor, num_positions: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """Return (positions of the tokens in the batch, True for those that are computed)."""
    position = token
    if rows is not None:
        position = tl.load(rows + token, mask=inside, other=num_positions)
    counts = inside & (position < num_positions)
    return position, counts & (tl.load(computed + position, mask=counts, other=0) != 0)


@triton.jit  # type: ignore[untyped-decorator]
def _first_at_or_after(rows: tl.tensor | None, position: tl.tensor, num_tokens: tl.tensor) -> tl.tensor:
    """Return the first token with a position >= `position`."""
    begin = position.to(tl.int64)
    if rows is not None:
        begin, end = tl.full((), 0, tl.int64), tl.full((), 0, tl.int64) + num_tokens
        while begin < end:
            middle = (begin + end) // 2
            if tl.load(rows + middle) < position:
                begin = middle + 1
            else:
                end = middle
    return begin


@triton.jit  # type: ignore[untyped-decorator]
def _sequence_of(
    cu_seqlens: tl.tensor, position: tl.tensor, counts: tl.tensor, num_sequences: tl.tensor, steps: tl.tensor
) -> tl.tensor:
    """Return the last sequence that starts at or before the position; steps >= ceil(log2(num_sequences))."""
    first = tl.zeros_like(position)
    last = first + (num_sequences - 1)
    for _ in range(steps):
        middle = (first + last + 1) // 2
        after = tl.load(cu_seqlens + middle, mask=counts, other=0) > position
        first, last = tl.where(after, first, middle), tl.where(after, middle - 1, last)
    return first


@triton.jit  # type: ignore[untyped-decorator]
def _correction_weight(log_weight: tl.tensor, cap: tl.tensor, CORRECTION: tl.constexpr) -> tl.tensor:
    weight = tl.exp(_clamp(log_weight))
    if CORRECTION == "mask":
        weight = tl.where(weight > cap, 0.0, weight)
    else:
        weight = tl.where(weight > cap, cap, weight)
    return weight


@triton.jit  # type: ignore[untyped-decorator]
def _policy(
    logprob: tl.tensor, log_ratio: tl.tensor, advantage: tl.tensor,
    low: tl.tensor, high: tl.tensor, dual_clip: tl.tensor, POLICY: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Return (loss, d loss / d logprob, ratio, clipped below, clipped above)."""
    clamped = _clamp(log_ratio)
    ratio = tl.exp(clamped)
    below, above = ratio < low, ratio > high
    if POLICY == "reinforce":
        below, above = below & False, above & False
        loss, grad = -advantage * logprob, -advantage
    elif POLICY == "clip":
        capped = (advantage < 0) & (ratio > dual_clip)
        below, above = below & (advantage < 0), above & (advantage > 0)
        used = tl.where(below, low, tl.where(above, high, tl.where(capped, dual_clip, ratio)))
        loss = -advantage * used
        grad = tl.where(below | above | capped | (clamped != log_ratio), 0.0, -advantage * ratio)
    else:
        if POLICY == "weight_absolute":
            weight = tl.where(above, high, ratio)
            below, above = below & False, above & (advantage > 0)
        else:
            weight = tl.where(above, high, tl.where(below, low, ratio))
        loss, grad = -weight * advantage * logprob, -weight * advantage
    return loss, grad, ratio, below, above


@triton.jit  # type: ignore[untyped-decorator]
def _kl(difference: tl.tensor, KL: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return (KL estimate, d KL / d logprob)."""
    if KL == "k1":
        kl, grad = difference, tl.full(difference.shape, 1.0, tl.float64)
    elif KL == "k2":
        kl, grad = difference * difference / 2, difference
    else:
        clamped = _clamp(-difference)
        grown = expm1(clamped)
        kl, grad = grown - clamped, tl.where(clamped == -difference, -grown, 0.0)
    return kl, grad


@triton.jit  # type: ignore[untyped-decorator]
def select_kernel(
    cu_seqlens: tl.tensor, advantages: tl.tensor, loss_mask: tl.tensor, computed: tl.tensor,
    lengths: tl.tensor,
    PER_TOKEN: tl.constexpr, LEAVE_OUT: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write computed and lengths; one program per sequence."""
    sequence = tl.program_id(0)
    begin, end = tl.load(cu_seqlens + sequence), tl.load(cu_seqlens + sequence + 1)
    length = tl.full((), 0, tl.int32)
    busy = tl.full((), 0, tl.int32)
    for start in range(begin, end, BLOCK):
        positions = start + tl.arange(0, BLOCK)
        inside = positions < end
        trained = tl.load(loss_mask + positions, mask=inside, other=0) != 0
        advantage = tl.load(
            advantages + (positions if PER_TOKEN else sequence + positions * 0), mask=inside, other=0.0
        )
        moves = trained & (advantage != 0)
        length += tl.sum(trained.to(tl.int32), 0)
        busy += tl.sum(moves.to(tl.int32), 0)
        if LEAVE_OUT and not WHOLE:
            trained = moves
        tl.store(computed + positions, trained, mask=inside)
    tl.store(lengths + sequence, length)
    if LEAVE_OUT and WHOLE:
        for start in range(begin, tl.where(busy == 0, end, begin), BLOCK):
            positions = start + tl.arange(0, BLOCK)
            tl.store(computed + positions, tl.zeros([BLOCK], tl.int1), mask=positions < end)


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def sequence_kernel(
    rows: tl.tensor | None, logprobs: tl.tensor, old_logprobs: tl.tensor | None,
    rollout_logprobs: tl.tensor | None, computed: tl.tensor, cu_seqlens: tl.tensor, terms: tl.tensor,
    num_tokens: tl.tensor, num_positions: tl.tensor, num_sequences: tl.tensor, cap: tl.float64,
    CORRECTION: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write terms [3, S]: mean log-ratio, correction, 1 / computed tokens; one program per sequence."""
    sequence = tl.program_id(0)
    begin = _first_at_or_after(rows, tl.load(cu_seqlens + sequence), num_tokens)
    end = _first_at_or_after(rows, tl.load(cu_seqlens + sequence + 1), num_tokens)
    number = tl.full((), 0.0, tl.float64)
    log_ratio = tl.full((), 0.0, tl.float64)
    log_weight = tl.full((), 0.0, tl.float64)
    for start in range(begin, end, BLOCK):
        token = start + tl.arange(0, BLOCK)
        position, counts = _positions(rows, computed, token, token < end, num_positions)
        logprob = _load(logprobs, token, counts)
        old = logprob
        if old_logprobs is not None:
            old = _load(old_logprobs, position, counts)
        number += tl.sum(counts.to(tl.float64), 0)
        log_ratio += tl.sum(logprob - old, 0)
        if rollout_logprobs is not None:
            difference = old - _load(rollout_logprobs, position, counts)
            log_weight += tl.sum(tl.where(difference == difference, difference, 0.0), 0)
    share = 1 / tl.where(number > 0, number, 1.0)
    tl.store(terms + sequence, log_ratio * share)
    tl.store(terms + num_sequences + sequence, _correction_weight(log_weight, cap, CORRECTION))
    tl.store(terms + 2 * num_sequences + sequence, share)


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def token_kernel(
    rows: tl.tensor | None, logprobs: tl.tensor, old_logprobs: tl.tensor | None,
    rollout_logprobs: tl.tensor | None, computed: tl.tensor, cu_seqlens: tl.tensor,
    terms: tl.tensor | None, num_tokens: tl.tensor, num_positions: tl.tensor, num_sequences: tl.tensor,
    ref_logprobs: tl.tensor | None, entropy: tl.tensor | None, self_certainty: tl.tensor | None,
    top1: tl.tensor | None, advantages: tl.tensor, lengths: tl.tensor,
    grad_logprobs: tl.tensor, grad_entropy: tl.tensor | None, partials: tl.tensor,
    steps: tl.tensor, blocks: tl.tensor, low: tl.float64, high: tl.float64, dual_clip: tl.float64,
    kl_coef: tl.float64, entropy_coef: tl.float64, cap: tl.float64, denominator: tl.float64,
    POLICY: tl.constexpr, KL: tl.constexpr, KL_RATIO: tl.constexpr, CORRECTION: tl.constexpr,
    SEQUENCE_RATIO: tl.constexpr, SEQUENCE_CORRECTION: tl.constexpr,
    SEQUENCE_MEAN: tl.constexpr, PER_TOKEN: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write the tokens' gradients and partial sums [STATS, blocks]; one program per block of tokens."""
    block = tl.program_id(0)
    token = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    position, counts = _positions(rows, computed, token, token < num_tokens, num_positions)
    sequence = _sequence_of(cu_seqlens, position, counts, num_sequences, steps)
    zero = tl.zeros([BLOCK], tl.float64)
    one = counts.to(tl.float64)

    logprob = _load(logprobs, token, counts)
    advantage = _load(advantages, position if PER_TOKEN else sequence, counts)
    old = logprob if old_logprobs is None else _load(old_logprobs, position, counts)
    log_ratio = _load(terms, sequence, counts) if SEQUENCE_RATIO else logprob - old
    loss, grad, ratio, below, above = _policy(logprob, log_ratio, advantage, low, high, dual_clip, POLICY)

    distance, known, correction, share = zero, counts & False, zero, zero
    if rollout_logprobs is not None:
        difference = old - _load(rollout_logprobs, position, counts)
        known = counts & (difference == difference)
        difference = tl.where(known, difference, 0.0)
        distance = tl.abs(difference)
        if CORRECTION != "none":
            if SEQUENCE_CORRECTION:
                correction = _load(terms, num_sequences + sequence, counts)
                share = _load(terms, 2 * num_sequences + sequence, counts)
            else:
                correction, share = _correction_weight(difference, cap, CORRECTION), one
            loss, grad = correction * loss, correction * grad
    corrected = share > 0

    kl = zero
    if ref_logprobs is not None:
        kl, kl_grad = _kl(logprob - _load(ref_logprobs, position, counts), KL)
        if KL_RATIO:
            kl_grad = ratio * (kl_grad + tl.where(tl.abs(log_ratio) > LIMIT, 0.0, kl))
            kl *= ratio
        loss += kl_coef * kl
        grad += kl_coef * kl_grad
    surprise = zero if entropy is None else _load(entropy, token, counts)
    weight = one / denominator
    if SEQUENCE_MEAN:
        weight /= tl.load(lengths + sequence, mask=counts, other=1).to(tl.float64)
    if grad_entropy is not None:
        loss -= entropy_coef * surprise
        tl.store(grad_entropy + token, (-entropy_coef * weight).to(tl.float32), mask=token < num_tokens)
    tl.store(
        grad_logprobs + token, tl.where(counts, weight * grad, 0.0).to(tl.float32), mask=token < num_tokens
    )

    values = (
        weight * loss, one, surprise, kl, below.to(tl.float64), above.to(tl.float64),
        ratio, tl.where(counts, ratio, INFINITY), tl.where(counts, ratio, -INFINITY),
        correction * share, share,
        tl.where(corrected, correction, INFINITY), tl.where(corrected, correction, -INFINITY),
        distance, known.to(tl.float64), tl.where(known, distance, -INFINITY),
        zero if self_certainty is None else _load(self_certainty, token, counts),
        zero if top1 is None else _load(top1, token, counts),
    )  # fmt: skip
    for k in tl.static_range(NUM_STATS):
        if (MINIMA >> k) & 1:
            folded = tl.min(values[k], 0)
        elif (MAXIMA >> k) & 1:
            folded = tl.max(values[k], 0)
        else:
            folded = tl.sum(tl.where(counts, values[k], 0.0), 0)
        tl.store(partials + k * blocks + block, folded)


@triton.jit(do_not_specialize=LENGTHS)  # type: ignore[untyped-decorator]
def fold_kernel(partials: tl.tensor, blocks: tl.tensor, stats: tl.tensor, BLOCK: tl.constexpr) -> None:
    """Reduce the partial sums over blocks, in a fixed order; one program per statistic."""
    stat = tl.program_id(0)
    total = tl.full((), 0.0, tl.float64)
    least = tl.full((), INFINITY, tl.float64)
    largest = tl.full((), -INFINITY, tl.float64)
    for begin in range(0, blocks, BLOCK):
        columns = begin + tl.arange(0, BLOCK)
        inside = columns < blocks
        values = tl.load(partials + stat * blocks + columns, mask=inside, other=0.0)
        total += tl.sum(values, 0)
        least = tl.minimum(least, tl.min(tl.where(inside, values, INFINITY), 0))
        largest = tl.maximum(largest, tl.max(tl.where(inside, values, -INFINITY), 0))
    bit = tl.full((), 1, tl.int32) << stat
    folded = tl.where((bit & MINIMA) != 0, least, tl.where((bit & MAXIMA) != 0, largest, total))
    tl.store(stats + stat, folded)
