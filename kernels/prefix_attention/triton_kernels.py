"""The kernels of triton_impl. Scores are in base 2, since GPUs have an exp2 instruction."""

from __future__ import annotations

import triton
import triton.language as tl

from fastrl.kernels._triton_math import tanh, tanh_grad

INFINITY = tl.constexpr(float("inf"))
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LENGTHS = ("tokens", "num_heads", "num_kv_heads", "window")
SCALARS = ("outward", "inward")


@triton.jit  # type: ignore[untyped-decorator]
def _offsets(
    first: tl.tensor, tokens: tl.tensor, num_heads: tl.tensor,
    TILE: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Return (offset of token `first` in [tokens, num_heads, HEAD], offsets [TILE, BLOCK] from it, mask)."""
    local, columns = tl.arange(0, TILE), tl.arange(0, BLOCK)
    inside = (first + local < tokens)[:, None]
    if HEAD < BLOCK:
        inside = inside & (columns < HEAD)[None, :]
    row = num_heads * HEAD
    return first.to(tl.int64) * row, local[:, None] * row + columns[None, :], inside


@triton.jit  # type: ignore[untyped-decorator]
def _load(
    source: tl.tensor, first: tl.tensor, tokens: tl.tensor, num_heads: tl.tensor,
    TILE: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    begin, offsets, inside = _offsets(first, tokens, num_heads, TILE, HEAD, BLOCK)
    return tl.load(source + begin + offsets, mask=inside, other=0.0).to(DOT)


@triton.jit  # type: ignore[untyped-decorator]
def _store(
    target: tl.tensor, values: tl.tensor, first: tl.tensor, tokens: tl.tensor, num_heads: tl.tensor,
    TILE: tl.constexpr, HEAD: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    begin, offsets, inside = _offsets(first, tokens, num_heads, TILE, HEAD, BLOCK)
    tl.store(target + begin + offsets, values.to(target.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _to_z(raw: tl.tensor, outward: tl.tensor, inward: tl.tensor, CAPPED: tl.constexpr) -> tl.tensor:
    """Return scores in base 2; outward includes log2(e)."""
    if CAPPED:
        raw = tanh(inward * raw)
    return outward * raw


@triton.jit  # type: ignore[untyped-decorator]
def _sees(
    depths: tl.tensor, subtree_stop: tl.tensor, query: tl.tensor, key: tl.tensor,
    tokens: tl.tensor, window: tl.tensor, WINDOWED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the mask of visible pairs; `query` and `key` are slots, [a, 1] and [1, b] or the other way."""
    stop = tl.load(subtree_stop + key, mask=key < tokens, other=0)
    sees = (key <= query) & (query < stop)
    if WINDOWED:
        query_depth = tl.load(depths + query, mask=query < tokens, other=0)
        key_depth = tl.load(depths + key, mask=key < tokens, other=0)
        sees = sees & (query_depth - key_depth < window)
    return sees


@triton.jit  # type: ignore[untyped-decorator]
def _fold(
    q: tl.tensor, key: tl.tensor, value: tl.tensor, depths: tl.tensor, subtree_stop: tl.tensor,
    first_query: tl.tensor, first_key: tl.tensor, tokens: tl.tensor, num_kv_heads: tl.tensor,
    window: tl.tensor, outward: tl.tensor, inward: tl.tensor,
    top: tl.tensor, total: tl.tensor, mixed: tl.tensor,
    HEAD: tl.constexpr, HEAD_VALUE: tl.constexpr, BLOCK_HEAD: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    TILE_QUERY: tl.constexpr, TILE_KEY: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    DOT: tl.constexpr, MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:  # fmt: skip
    """Add a tile of keys to (largest score, sum, weighted values) of rows; the online softmax."""
    k = _load(key, first_key, tokens, num_kv_heads, TILE_KEY, HEAD, BLOCK_HEAD, DOT)
    z = _to_z(tl.dot(q, k.T), outward, inward, CAPPED)
    if MASKED:
        rows = first_query + tl.arange(0, TILE_QUERY)[:, None]
        keys = first_key + tl.arange(0, TILE_KEY)[None, :]
        z = tl.where(_sees(depths, subtree_stop, rows, keys, tokens, window, WINDOWED), z, -INFINITY)
    new_top = tl.maximum(top, tl.max(z, 1))
    finite = tl.where(new_top == -INFINITY, 0.0, new_top)  # rows without a visible key so far
    p = tl.exp2(z - finite[:, None])
    factor = tl.exp2(top - finite)
    v = _load(value, first_key, tokens, num_kv_heads, TILE_KEY, HEAD_VALUE, BLOCK_VALUE, DOT)
    mixed = tl.dot(p.to(DOT), v, mixed * factor[:, None])
    return new_top, total * factor + tl.sum(p, 1), mixed


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def prefix_forward_kernel(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, out: tl.tensor, lse: tl.tensor,
    depths: tl.tensor, subtree_stop: tl.tensor, bounds: tl.tensor, tiles: tl.tensor,
    tokens: tl.tensor, num_heads: tl.tensor, num_kv_heads: tl.tensor, window: tl.tensor,
    outward: tl.tensor, inward: tl.tensor,
    HEAD: tl.constexpr, HEAD_VALUE: tl.constexpr, BLOCK_HEAD: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    TILE_QUERY: tl.constexpr, TILE_KEY: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    DOT: tl.constexpr,
) -> None:  # fmt: skip
    """Compute out and lse; one program per tile of queries and head, over its list of key tiles."""
    tile, head = tl.program_id(0), tl.program_id(1)
    first = tile * TILE_QUERY
    key += head // (num_heads // num_kv_heads) * HEAD
    value += head // (num_heads // num_kv_heads) * HEAD_VALUE
    q = _load(query + head * HEAD, first, tokens, num_heads, TILE_QUERY, HEAD, BLOCK_HEAD, DOT)
    top = tl.full([TILE_QUERY], -INFINITY, tl.float32)
    total = tl.zeros([TILE_QUERY], tl.float32)
    mixed = tl.zeros([TILE_QUERY, BLOCK_VALUE], tl.float32)
    middle = tl.load(bounds + 3 * tile + 1)
    for index in range(tl.load(bounds + 3 * tile), middle):
        top, total, mixed = _fold(
            q, key, value, depths, subtree_stop, first, tl.load(tiles + index) * TILE_KEY, tokens,
            num_kv_heads, window, outward, inward, top, total, mixed, HEAD, HEAD_VALUE, BLOCK_HEAD,
            BLOCK_VALUE, TILE_QUERY, TILE_KEY, CAPPED, WINDOWED, DOT, False,
        )  # fmt: skip
    for index in range(middle, tl.load(bounds + 3 * tile + 2)):
        top, total, mixed = _fold(
            q, key, value, depths, subtree_stop, first, tl.load(tiles + index) * TILE_KEY, tokens,
            num_kv_heads, window, outward, inward, top, total, mixed, HEAD, HEAD_VALUE, BLOCK_HEAD,
            BLOCK_VALUE, TILE_QUERY, TILE_KEY, CAPPED, WINDOWED, DOT, True,
        )  # fmt: skip
    rows = first + tl.arange(0, TILE_QUERY)
    total = tl.where(rows < tokens, total, 1.0)
    mixed = mixed / total[:, None]
    _store(out + head * HEAD_VALUE, mixed, first, tokens, num_heads, TILE_QUERY, HEAD_VALUE, BLOCK_VALUE)
    sums = (top + tl.log2(total)) * LN2
    tl.store(lse + rows.to(tl.int64) * num_heads + head, sums, mask=rows < tokens)


@triton.jit(do_not_specialize=LENGTHS)  # type: ignore[untyped-decorator]
def prefix_delta_kernel(
    grad: tl.tensor, out: tl.tensor, delta: tl.tensor, tokens: tl.tensor, num_heads: tl.tensor,
    HEAD_VALUE: tl.constexpr, BLOCK_VALUE: tl.constexpr, TILE_QUERY: tl.constexpr,
) -> None:  # fmt: skip
    """Compute delta = sum of grad * out of each row; one program per tile of rows and head."""
    head, first = tl.program_id(1), tl.program_id(0) * TILE_QUERY
    begin, offsets, inside = _offsets(first, tokens, num_heads, TILE_QUERY, HEAD_VALUE, BLOCK_VALUE)
    begin += head * HEAD_VALUE
    product = tl.load(grad + begin + offsets, mask=inside, other=0.0).to(tl.float32)
    product *= tl.load(out + begin + offsets, mask=inside, other=0.0).to(tl.float32)
    rows = first + tl.arange(0, TILE_QUERY)
    tl.store(delta + rows.to(tl.int64) * num_heads + head, tl.sum(product, 1), mask=rows < tokens)


@triton.jit  # type: ignore[untyped-decorator]
def _row_values(
    lse: tl.tensor, delta: tl.tensor, first: tl.tensor, head: tl.tensor, tokens: tl.tensor,
    num_heads: tl.tensor, TILE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Return (log-sum-exps in base 2, deltas); rows past the last get weight 0."""
    rows = first + tl.arange(0, TILE)
    offsets = rows.to(tl.int64) * num_heads + head
    sums = tl.load(lse + offsets, mask=rows < tokens, other=INFINITY)
    return sums * LOG2E, tl.load(delta + offsets, mask=rows < tokens, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _query_part(
    q: tl.tensor, g: tl.tensor, sums: tl.tensor, deltas: tl.tensor, key: tl.tensor, value: tl.tensor,
    depths: tl.tensor, subtree_stop: tl.tensor,
    first_query: tl.tensor, first_key: tl.tensor, tokens: tl.tensor, num_kv_heads: tl.tensor,
    window: tl.tensor, outward: tl.tensor, inward: tl.tensor, found: tl.tensor,
    HEAD: tl.constexpr, HEAD_VALUE: tl.constexpr, BLOCK_HEAD: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    TILE_QUERY: tl.constexpr, TILE_KEY: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    DOT: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Add a tile of keys to the queries' gradient."""
    k = _load(key, first_key, tokens, num_kv_heads, TILE_KEY, HEAD, BLOCK_HEAD, DOT)
    raw = tl.dot(q, k.T)
    p = tl.exp2(_to_z(raw, outward, inward, CAPPED) - sums[:, None])
    if MASKED:
        rows = first_query + tl.arange(0, TILE_QUERY)[:, None]
        keys = first_key + tl.arange(0, TILE_KEY)[None, :]
        p = tl.where(_sees(depths, subtree_stop, rows, keys, tokens, window, WINDOWED), p, 0.0)
    v = _load(value, first_key, tokens, num_kv_heads, TILE_KEY, HEAD_VALUE, BLOCK_VALUE, DOT)
    ds = p * (tl.dot(g, v.T) - deltas[:, None])
    if CAPPED:
        ds *= tanh_grad(inward * raw)
    return tl.dot(ds.to(DOT), k, found)


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def prefix_query_gradient_kernel(
    grad: tl.tensor, query: tl.tensor, key: tl.tensor, value: tl.tensor, lse: tl.tensor, delta: tl.tensor,
    grad_query: tl.tensor,
    depths: tl.tensor, subtree_stop: tl.tensor, bounds: tl.tensor, tiles: tl.tensor,
    tokens: tl.tensor, num_heads: tl.tensor, num_kv_heads: tl.tensor, window: tl.tensor,
    outward: tl.tensor, inward: tl.tensor,
    HEAD: tl.constexpr, HEAD_VALUE: tl.constexpr, BLOCK_HEAD: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    TILE_QUERY: tl.constexpr, TILE_KEY: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    DOT: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the queries' gradient; one program per tile of queries and head."""
    tile, head = tl.program_id(0), tl.program_id(1)
    first = tile * TILE_QUERY
    key += head // (num_heads // num_kv_heads) * HEAD
    value += head // (num_heads // num_kv_heads) * HEAD_VALUE
    q = _load(query + head * HEAD, first, tokens, num_heads, TILE_QUERY, HEAD, BLOCK_HEAD, DOT)
    g = _load(grad + head * HEAD_VALUE, first, tokens, num_heads, TILE_QUERY, HEAD_VALUE, BLOCK_VALUE, DOT)
    sums, deltas = _row_values(lse, delta, first, head, tokens, num_heads, TILE_QUERY)
    found = tl.zeros([TILE_QUERY, BLOCK_HEAD], tl.float32)
    middle = tl.load(bounds + 3 * tile + 1)
    for index in range(tl.load(bounds + 3 * tile), middle):
        found = _query_part(
            q, g, sums, deltas, key, value, depths, subtree_stop, first,
            tl.load(tiles + index) * TILE_KEY, tokens, num_kv_heads, window, outward, inward, found,
            HEAD, HEAD_VALUE, BLOCK_HEAD, BLOCK_VALUE, TILE_QUERY, TILE_KEY, CAPPED, WINDOWED, DOT,
            False,
        )  # fmt: skip
    for index in range(middle, tl.load(bounds + 3 * tile + 2)):
        found = _query_part(
            q, g, sums, deltas, key, value, depths, subtree_stop, first,
            tl.load(tiles + index) * TILE_KEY, tokens, num_kv_heads, window, outward, inward, found,
            HEAD, HEAD_VALUE, BLOCK_HEAD, BLOCK_VALUE, TILE_QUERY, TILE_KEY, CAPPED, WINDOWED, DOT,
            True,
        )  # fmt: skip
    found *= outward * inward * LN2
    _store(grad_query + head * HEAD, found, first, tokens, num_heads, TILE_QUERY, HEAD, BLOCK_HEAD)


@triton.jit  # type: ignore[untyped-decorator]
def _key_part(
    k: tl.tensor, v: tl.tensor, grad: tl.tensor, query: tl.tensor, lse: tl.tensor, delta: tl.tensor,
    depths: tl.tensor, subtree_stop: tl.tensor, head: tl.tensor,
    first_query: tl.tensor, first_key: tl.tensor, tokens: tl.tensor, num_heads: tl.tensor,
    window: tl.tensor, outward: tl.tensor, inward: tl.tensor, to_key: tl.tensor, to_value: tl.tensor,
    HEAD: tl.constexpr, HEAD_VALUE: tl.constexpr, BLOCK_HEAD: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    TILE_QUERY: tl.constexpr, TILE_KEY: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    DOT: tl.constexpr, MASKED: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Add a tile of queries to the keys' and values' gradients; scores are [keys, queries]."""
    q = _load(query + head * HEAD, first_query, tokens, num_heads, TILE_QUERY, HEAD, BLOCK_HEAD, DOT)
    sums, deltas = _row_values(lse, delta, first_query, head, tokens, num_heads, TILE_QUERY)
    raw = tl.dot(k, q.T)
    p = tl.exp2(_to_z(raw, outward, inward, CAPPED) - sums[None, :])
    if MASKED:
        rows = first_query + tl.arange(0, TILE_QUERY)[None, :]
        keys = first_key + tl.arange(0, TILE_KEY)[:, None]
        p = tl.where(_sees(depths, subtree_stop, rows, keys, tokens, window, WINDOWED), p, 0.0)
    g = _load(
        grad + head * HEAD_VALUE, first_query, tokens, num_heads, TILE_QUERY, HEAD_VALUE, BLOCK_VALUE, DOT
    )
    to_value = tl.dot(p.to(DOT), g, to_value)
    ds = p * (tl.dot(v, g.T) - deltas[None, :])
    if CAPPED:
        ds *= tanh_grad(inward * raw)
    return tl.dot(ds.to(DOT), q, to_key), to_value


@triton.jit(do_not_specialize=LENGTHS + SCALARS)  # type: ignore[untyped-decorator]
def prefix_key_gradient_kernel(
    grad: tl.tensor, query: tl.tensor, key: tl.tensor, value: tl.tensor, lse: tl.tensor, delta: tl.tensor,
    grad_key: tl.tensor, grad_value: tl.tensor,
    depths: tl.tensor, subtree_stop: tl.tensor, bounds: tl.tensor, tiles: tl.tensor,
    tokens: tl.tensor, num_heads: tl.tensor, num_kv_heads: tl.tensor, window: tl.tensor,
    outward: tl.tensor, inward: tl.tensor,
    HEAD: tl.constexpr, HEAD_VALUE: tl.constexpr, BLOCK_HEAD: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    TILE_QUERY: tl.constexpr, TILE_KEY: tl.constexpr, CAPPED: tl.constexpr, WINDOWED: tl.constexpr,
    DOT: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the keys' and values' gradients without atomics; one program per tile of keys and key head."""
    tile, key_head = tl.program_id(0), tl.program_id(1)
    first = tile * TILE_KEY
    k = _load(key + key_head * HEAD, first, tokens, num_kv_heads, TILE_KEY, HEAD, BLOCK_HEAD, DOT)
    v = _load(
        value + key_head * HEAD_VALUE, first, tokens, num_kv_heads, TILE_KEY, HEAD_VALUE, BLOCK_VALUE, DOT
    )
    to_key = tl.zeros([TILE_KEY, BLOCK_HEAD], tl.float32)
    to_value = tl.zeros([TILE_KEY, BLOCK_VALUE], tl.float32)
    begin, middle = tl.load(bounds + 3 * tile), tl.load(bounds + 3 * tile + 1)
    end, group = tl.load(bounds + 3 * tile + 2), num_heads // num_kv_heads
    for head in range(key_head * group, (key_head + 1) * group):
        for index in range(begin, middle):
            to_key, to_value = _key_part(
                k, v, grad, query, lse, delta, depths, subtree_stop, head,
                tl.load(tiles + index) * TILE_QUERY, first, tokens, num_heads, window, outward, inward,
                to_key, to_value, HEAD, HEAD_VALUE, BLOCK_HEAD, BLOCK_VALUE, TILE_QUERY, TILE_KEY,
                CAPPED, WINDOWED, DOT, False,
            )  # fmt: skip
        for index in range(middle, end):
            to_key, to_value = _key_part(
                k, v, grad, query, lse, delta, depths, subtree_stop, head,
                tl.load(tiles + index) * TILE_QUERY, first, tokens, num_heads, window, outward, inward,
                to_key, to_value, HEAD, HEAD_VALUE, BLOCK_HEAD, BLOCK_VALUE, TILE_QUERY, TILE_KEY,
                CAPPED, WINDOWED, DOT, True,
            )  # fmt: skip
    to_key *= outward * inward * LN2
    grad_value += key_head * HEAD_VALUE
    _store(grad_key + key_head * HEAD, to_key, first, tokens, num_kv_heads, TILE_KEY, HEAD, BLOCK_HEAD)
    _store(grad_value, to_value, first, tokens, num_kv_heads, TILE_KEY, HEAD_VALUE, BLOCK_VALUE)
