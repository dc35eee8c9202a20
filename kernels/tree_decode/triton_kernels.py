"""The kernels of triton_impl: partial results of pieces of trunks and tails, and their merge."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrl.kernels._triton_math import tanh

INFINITY = tl.constexpr(float("inf"))
LENGTHS = (
    "query_stride", "query_head_stride", "key_stride", "key_head_stride", "value_stride", "value_head_stride",
    "table_stride", "num_items", "tail_pieces", "tail_partials", "block_size", "split", "group", "heads",
    "width", "value_width", "window",
)  # fmt: skip
SCALARS = ("outward", "inward")


@triton.jit  # type: ignore[untyped-decorator]
def _known(length: tl.tensor, ALIGNED: tl.constexpr) -> tl.tensor:
    """Return the length; with ALIGNED the compiler knows that it is a multiple of 8."""
    if ALIGNED:
        length = length // 8 * 8
    return length


@triton.jit  # type: ignore[untyped-decorator]
def _slots(
    blocks: tl.tensor, slot: tl.tensor, tokens: tl.tensor, inside: tl.tensor, block_size: tl.tensor,
    PAGED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the int64 slots of tokens of a tail (PAGED), or of a segment that begins at `slot`."""
    if PAGED:
        firsts = tl.load(blocks + tokens // block_size, mask=inside, other=0)
        found = firsts.to(tl.int64) + tokens % block_size
    else:
        found = slot.to(tl.int64) + tokens
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _weights(
    scores: tl.tensor, visible: tl.tensor, outward: tl.tensor, inward: tl.tensor, running_max: tl.tensor,
    CAPPED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Return (2^(score - max), factor for the previous sums, new max); scores are in base 2."""
    if CAPPED:
        scores = tanh(inward * scores)
    scores = tl.where(visible, outward * scores, -INFINITY)
    new_max = tl.maximum(running_max, tl.max(scores, 1))
    shift = tl.where(new_max == -INFINITY, 0.0, new_max)
    return tl.exp2(scores - shift[:, None]), tl.exp2(running_max - shift), new_max


@triton.jit  # type: ignore[untyped-decorator]
def _piece(
    query: tl.tensor, query_stride: tl.tensor, query_head_stride: tl.tensor,
    keys: tl.tensor, key_stride: tl.tensor, values: tl.tensor, value_stride: tl.tensor,
    partial_sums: tl.tensor, partial_stats: tl.tensor, prefix_lengths: tl.tensor, tail_lengths: tl.tensor,
    blocks: tl.tensor, slot: tl.tensor, block_size: tl.tensor, begin: tl.tensor, length: tl.tensor,
    position: tl.tensor, rows: tl.tensor, query_heads: tl.tensor, partials: tl.tensor, real: tl.tensor,
    width: tl.tensor, value_width: tl.tensor, outward: tl.tensor, inward: tl.tensor, window: tl.tensor,
    PAGED: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, DOT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr,
) -> None:  # fmt: skip
    """Attend BLOCK_M queries (rows, query_heads) to tokens [begin, begin + length) of a segment or tail."""
    dims, columns = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_V)
    query_offsets = rows.to(tl.int64) * query_stride + query_heads * query_head_stride
    given = real[:, None] & (dims < width)[None, :]
    queries = tl.load(query + query_offsets[:, None] + dims[None, :], mask=given, other=0.0).to(DOT)
    seen_from = tl.zeros([BLOCK_M], tl.int32)
    if WINDOWED:
        lengths = tl.load(prefix_lengths + rows) + tl.load(tail_lengths + rows)
        seen_from = tl.maximum(lengths - window - position, 0)
    earliest = tl.min(tl.where(real, seen_from, length), 0)

    running_max = tl.full([BLOCK_M], -INFINITY, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    # blocks begin at multiples of BLOCK_N for every query, so that sums have a fixed order
    for start in range(earliest // BLOCK_N * BLOCK_N, length, BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        inside = (tokens < length) & (tokens >= earliest)
        slots = _slots(blocks, slot, begin + tokens, inside, block_size, PAGED)
        of_keys = keys + slots[None, :] * key_stride + dims[:, None]
        key = tl.load(of_keys, mask=inside[None, :] & (dims < width)[:, None], other=0.0).to(DOT)
        scores = tl.dot(queries, key, input_precision="ieee")
        visible = inside[None, :] & (tokens[None, :] >= seen_from[:, None])
        weights, factor, running_max = _weights(scores, visible, outward, inward, running_max, CAPPED)
        total = total * factor + tl.sum(weights, 1)
        of_values = values + slots[:, None] * value_stride + columns[None, :]
        value = tl.load(of_values, mask=inside[:, None] & (columns < value_width)[None, :], other=0.0)
        mixed = tl.dot(weights.to(DOT), value.to(DOT), input_precision="ieee")
        sums = sums * factor[:, None] + mixed

    tl.store(partial_stats + partials * 2, running_max, mask=real)
    tl.store(partial_stats + partials * 2 + 1, total, mask=real)
    to = partial_sums + partials[:, None] * value_width + columns[None, :]
    tl.store(to, sums, mask=real[:, None] & (columns < value_width)[None, :])


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def decode_kernel(
    query: tl.tensor, query_stride: tl.tensor, query_head_stride: tl.tensor,
    keys: tl.tensor, key_stride: tl.tensor, key_head_stride: tl.tensor,
    values: tl.tensor, value_stride: tl.tensor, value_head_stride: tl.tensor,
    partial_sums: tl.tensor, partial_stats: tl.tensor,
    items: tl.tensor, trunk_starts: tl.tensor, prefix_lengths: tl.tensor, tail_lengths: tl.tensor,
    block_table: tl.tensor, table_stride: tl.tensor,
    num_items: tl.tensor, tail_pieces: tl.tensor, tail_partials: tl.tensor, block_size: tl.tensor,
    split: tl.tensor, group: tl.tensor, heads: tl.tensor, width: tl.tensor, value_width: tl.tensor,
    outward: tl.tensor, inward: tl.tensor, window: tl.tensor,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, ALIGNED: tl.constexpr, DOT: tl.constexpr,
    TRUNK_M: tl.constexpr, TAIL_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
) -> None:  # fmt: skip
    """Compute partial results; one program per item (or piece of a row's tail) and key-value head."""
    program, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    query_stride, query_head_stride = _known(query_stride, ALIGNED), _known(query_head_stride, ALIGNED)
    key_stride, value_stride = _known(key_stride, ALIGNED), _known(value_stride, ALIGNED)
    width, value_width = _known(width, ALIGNED), _known(value_width, ALIGNED)
    keys += head * _known(key_head_stride, ALIGNED)
    values += head * _known(value_head_stride, ALIGNED)
    if program < num_items:
        items += program * 6
        slot, length, position = tl.load(items), tl.load(items + 1), tl.load(items + 4)
        first, stop = tl.load(items + 2), tl.load(items + 3)
        lanes = tl.arange(0, TRUNK_M)
        real = first + lanes // group < stop
        rows = tl.where(real, first + lanes // group, first)
        query_heads = head * group + lanes % group
        partials = (tl.load(trunk_starts + rows) + tl.load(items + 5)) * (heads * group) + query_heads
        _piece(
            query, query_stride, query_head_stride, keys, key_stride, values, value_stride,
            partial_sums, partial_stats, prefix_lengths, tail_lengths,
            block_table, slot, block_size, 0, length, position, rows, query_heads, partials, real,
            width, value_width, outward, inward, window,
            False, WINDOWED, CAPPED, DOT, BLOCK_N, BLOCK_K, BLOCK_V, TRUNK_M,
        )  # fmt: skip
    else:
        tail = program - num_items
        row, begin = tail // tail_pieces, (tail % tail_pieces * split).to(tl.int32)
        length = tl.minimum(tl.load(tail_lengths + row) - begin, split)
        if length > 0:
            lanes = tl.arange(0, TAIL_M)
            rows, query_heads = row + 0 * lanes, head * group + lanes
            partials = (tail_partials + tail) * (heads * group) + query_heads
            position = tl.load(prefix_lengths + row) + begin
            _piece(
                query, query_stride, query_head_stride, keys, key_stride, values, value_stride,
                partial_sums, partial_stats, prefix_lengths, tail_lengths,
                block_table + row * table_stride, row, block_size, begin, length, position, rows, query_heads,
                partials, lanes < group,
                width, value_width, outward, inward, window,
                True, WINDOWED, CAPPED, DOT, BLOCK_N, BLOCK_K, BLOCK_V, TAIL_M,
            )  # fmt: skip


@triton.jit(do_not_specialize=LENGTHS)  # type: ignore[untyped-decorator]
def decode_merge_kernel(
    partial_sums: tl.tensor, partial_stats: tl.tensor, trunk_starts: tl.tensor, tail_lengths: tl.tensor,
    tail_pieces: tl.tensor, tail_partials: tl.tensor, split: tl.tensor, value_width: tl.tensor,
    out: tl.tensor, BLOCK_P: tl.constexpr, BLOCK_V: tl.constexpr,
) -> None:  # fmt: skip
    """Merge a query's partial results, trunk first from the root, then tail; one program per query."""
    row, query_head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    begin = tl.load(trunk_starts + row)
    of_trunk = tl.load(trunk_starts + row + 1) - begin
    count = of_trunk + (tl.load(tail_lengths + row) + split - 1) // split
    columns = tl.arange(0, BLOCK_V)
    running_max = tl.full((), -INFINITY, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    sums = tl.zeros([BLOCK_V], tl.float32)
    for start in range(0, count, BLOCK_P):
        ranks = start + tl.arange(0, BLOCK_P)
        inside = ranks < count
        own = tail_partials + row * tail_pieces + ranks - of_trunk
        partials = tl.where(ranks < of_trunk, begin + ranks, own) * heads + query_head
        largest = tl.load(partial_stats + partials * 2, mask=inside, other=-INFINITY)
        totals = tl.load(partial_stats + partials * 2 + 1, mask=inside, other=0.0)
        among = inside[:, None] & (columns < value_width)[None, :]
        parts = tl.load(
            partial_sums + partials[:, None] * value_width + columns[None, :], mask=among, other=0.0
        )
        new_max = tl.maximum(running_max, tl.max(largest, 0))
        shift = tl.where(new_max == -INFINITY, 0.0, new_max)
        weights, factor = tl.exp2(largest - shift), tl.exp2(running_max - shift)
        total = total * factor + tl.sum(totals * weights, 0)
        sums = sums * factor + tl.sum(parts * weights[:, None], 0)
        running_max = new_max
    to = out + (row * heads + query_head) * value_width + columns
    tl.store(to, (sums / total).to(out.dtype.element_ty), mask=columns < value_width)
