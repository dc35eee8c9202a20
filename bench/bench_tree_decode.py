"""Time tree_decode on prompts x rollouts x cuts x continuations against attention that shares less.

    python -m bench.bench_tree_decode [--shapes cpu | gpu] [--dtype float32 | bfloat16] [--small]

flat: each row reads its own padded copy of its context. tiers: prompts and rollouts are read once per step
for all their rows, with one softmax over the scores of all parts. FlashInfer, if installed: its flat decode
and its cascade over two levels (prompts, the rest) and over one level per segment of a path.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from bench.competitors import add_wheels
from bench.harness import arguments, compare, finish, show
from bench.sidebyside import Row, attempt, device_name
from fastrl.kernels.tree_decode import IMPLEMENTATIONS
from fastrl.ops import DecodePlan, tree_decode

OP = "tree_decode"
BLOCK = 16
CUTS = 4
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest allowed difference to float64; values are N(0, 1)."""
WORKSPACE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """prompts x rollouts x CUTS x continuations rows; cuts are evenly spaced, the last at a rollout's end."""

    prompts: int
    rollouts: int
    prompt: int
    """Tokens per prompt; `rollout` and `tail` are tokens too."""
    rollout: int
    continuations: int
    tail: int
    query_heads: int
    heads: int
    width: int
    dtype: str = "float32"

    def __str__(self) -> str:
        rows = f"{self.prompts} x {self.rollouts} x {CUTS} x {self.continuations} rows"
        sizes = f"{self.prompt} + {self.rollout} tokens, tails {self.tail}"
        return f"{rows}, {sizes}, heads {self.query_heads}/{self.heads} x {self.width}, {self.dtype}"


# prompts, rollouts per prompt, tokens per prompt and per rollout, continuations, query heads, heads, width
SMALL = (2, 4, 24, 40, 4, 4, 2, 32)
CPU = ((1, 8, 128, 512, 4, 14, 2, 64), (1, 4, 256, 820, 4, 28, 4, 128), (4, 4, 64, 256, 2, 8, 8, 64))
GPU = tuple((n, 8, 512, 1638, 4, *heads, 128) for n in (1, 8, 16) for heads in ((12, 2), (28, 4), (32, 8)))


def shapes(given: argparse.Namespace) -> list[Shape]:
    def all_tails(sizes: tuple[int, ...], tails: tuple[int, ...], dtype: str) -> list[Shape]:
        *lengths, query_heads, heads, width = sizes
        return [Shape(*lengths, tail, query_heads, heads, width, dtype) for tail in tails]

    if given.shapes == "gpu":
        kinds = GPU[1:2] if given.small else GPU
        return [shape for sizes in kinds for shape in all_tails(sizes, (1, 64, 256, 512), "bfloat16")]
    found = all_tails(SMALL, (1, 24, 48), given.dtype)
    return (
        found
        if given.small
        else found + [s for sizes in CPU for s in all_tails(sizes, (1, 128), given.dtype)]
    )


@dataclass(frozen=True, slots=True)
class Case:
    shape: Shape
    query: Tensor
    keys: Tensor
    values: Tensor
    plan: DecodePlan
    tail_lengths: Tensor
    paths: list[list[Tensor]]
    """[rows] cache slots that each row reads: those of its prompt, its segments, its tail."""

    @property
    def scaling(self) -> float:
        return self.shape.width**-0.5

    def run(self, backend: str) -> Tensor:
        given = (self.query, self.keys, self.values, self.plan, self.tail_lengths)
        return tree_decode(*given, scaling=self.scaling, backend=backend)

    def gather(self, slots: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return padded keys and values [N, Hkv, L, K] and the padding mask [N, L] or None."""
        longest = max(map(len, slots))
        index = torch.stack([pad(own, (0, longest - len(own)), value=int(own[0])) for own in slots])
        hidden = torch.arange(longest)[None] >= torch.tensor([len(own) for own in slots])[:, None]
        keys, values = (pool[index.to(pool.device)].transpose(1, 2) for pool in (self.keys, self.values))
        hidden = hidden.to(self.keys.device) if hidden.any() else None
        return keys.contiguous(), values.contiguous(), hidden

    def error(self, out: Tensor) -> float:
        """Return the largest difference to float64 over some rows."""
        rows = list(range(0, len(out), max(1, len(out) // 8)))
        given = (self.query[rows].double(), self.keys.double(), self.values.double())
        plan, lengths = self.plan.keep(rows), self.tail_lengths[rows]
        want = tree_decode(*given, plan, lengths, scaling=self.scaling, backend="reference")
        return float((out[rows].double() - want).abs().max())


def build(shape: Shape, device: str) -> Case:
    torch.manual_seed(0)
    below = CUTS * shape.continuations
    rows, ends = shape.prompts * shape.rollouts * below, np.linspace(0, shape.rollout, CUTS + 1).astype(int)
    segments, positions, end = [], [], 0
    paths: list[list[Tensor]] = [[] for _ in range(rows)]

    def add(length: int, start: int, stop: int, position: int) -> None:
        nonlocal end
        segments.append((end, length, start, stop))
        positions.append(position)
        for row in range(start, stop):
            paths[row].append(torch.arange(end, end + length))
        end += length

    for prompt in range(shape.prompts):
        first = prompt * shape.rollouts * below
        add(shape.prompt, first, first + shape.rollouts * below, 0)
        for start in range(first, first + shape.rollouts * below, below):
            for k in range(CUTS):
                begin = start + k * shape.continuations
                add(int(ends[k + 1] - ends[k]), begin, start + below, shape.prompt + int(ends[k]))
    prefix_lengths = [sum(map(len, path)) for path in paths]
    blocks = -(-shape.tail // BLOCK)
    table = end + BLOCK * torch.randperm(rows * blocks).view(rows, blocks)
    for path, own in zip(paths, table, strict=True):
        path.append((own[:, None] + torch.arange(BLOCK)).flatten()[: shape.tail])
    plan = DecodePlan.make(segments, positions, prefix_lengths, table.int().to(device), block_size=BLOCK)
    pool = (end + BLOCK * rows * blocks, shape.heads, shape.width)
    made = (torch.randn(size, device=device) for size in ((rows, shape.query_heads, shape.width), pool, pool))
    query, keys, values = (tensor.to(getattr(torch, shape.dtype)) for tensor in made)
    lengths = torch.full((rows,), shape.tail, dtype=torch.int32, device=device)
    return Case(shape, query, keys, values, plan, lengths, paths)


def flat(case: Case) -> Callable[[], Tensor]:
    """Attend per row: the query heads of a key-value head share one call, so a row reads its context once."""
    keys, values, hidden = case.gather([torch.cat(path) for path in case.paths])
    mask = None if hidden is None else ~hidden[:, None, None]
    rows, heads, width = case.query.shape
    query = case.query.view(rows, case.shape.heads, heads // case.shape.heads, width)
    attend = scaled_dot_product_attention
    return lambda: attend(query, keys, values, mask, scale=case.scaling).reshape(rows, heads, width)


def tiers(case: Case) -> Callable[[], Tensor]:
    """Attend with one matrix product per tier and group of rows; masks what lies below a row's cut."""
    shape, below = case.shape, CUTS * case.shape.continuations
    prompt_paths, rollout_paths = case.paths[:: shape.rollouts * below], case.paths[below - 1 :: below]
    groups = [case.gather([path[0] for path in prompt_paths])[:2]]
    groups += [case.gather([torch.cat(path[1:-1]) for path in rollout_paths])[:2]]
    tail_keys, tail_values, _ = case.gather([path[-1] for path in case.paths])
    lengths = torch.tensor([sum(map(len, path[1:-1])) for path in case.paths], device=case.query.device)
    past = torch.arange(shape.rollout, device=case.query.device) >= lengths.view(-1, below, 1)
    mask = torch.zeros(past.shape, dtype=case.query.dtype, device=past.device).masked_fill_(past, -torch.inf)
    masks = [None, mask[:, None, :, None]]
    rows, group = len(case.query), shape.query_heads // shape.heads

    def by_group(x: Tensor, count: int) -> Tensor:
        split = x.view(count, rows // count, shape.heads, group, -1).transpose(1, 2)
        return split.reshape(count, shape.heads, rows // count * group, -1)

    def by_row(x: Tensor) -> Tensor:
        split = x.view(len(x), shape.heads, rows // len(x), group, -1).transpose(1, 2)
        return split.reshape(rows, shape.heads, group, -1)

    def attend() -> Tensor:
        query = (case.query * case.scaling).reshape(rows, shape.heads, group, shape.width)
        parts = []
        for (keys, _), mask in zip(groups, masks, strict=True):
            scores = by_group(query, len(keys)) @ keys.transpose(-1, -2)
            if mask is not None:
                split = scores.view(*scores.shape[:2], rows // len(keys), group, -1)
                scores = (split + mask).view_as(scores)
            parts.append(by_row(scores))
        parts.append(query @ tail_keys.transpose(-1, -2))
        weights = torch.cat(parts, -1).softmax(-1, dtype=torch.float32).to(case.values.dtype)
        *shares, own = torch.split(weights, [part.shape[-1] for part in parts], -1)
        out = own @ tail_values
        for (_, values), share in zip(groups, shares, strict=True):
            out = out + by_row(by_group(share, len(values)) @ values)
        return out.reshape(rows, shape.query_heads, shape.width)

    return attend


def flashinfer_flat(case: Case) -> Callable[[], Tensor]:
    import flashinfer

    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace(case), "NHD", use_tensor_cores=True)
    dtype, sizes = case.query.dtype, (case.shape.query_heads, case.shape.heads, case.shape.width, 1)
    pages = pages_of([torch.cat(path) for path in case.paths], case.query.device)
    wrapper.plan(*pages, *sizes, q_data_type=dtype, kv_data_type=dtype, sm_scale=case.scaling)
    pool = (case.keys[:, None], case.values[:, None])  # pages of one token, as trunks end anywhere
    return lambda: wrapper.run(case.query, pool)


def flashinfer_cascade(case: Case, by_segment: bool) -> Callable[[], Tensor]:
    import flashinfer

    if by_segment:
        depth = max(map(len, case.paths)) - 1
        levels = [
            [path[k] if k < len(path) - 1 else path[0][:0] for path in case.paths] for k in range(depth)
        ]
        levels.append([path[-1] for path in case.paths])
    else:
        levels = [[path[0] for path in case.paths], [torch.cat(path[1:]) for path in case.paths]]
    device, arrays = case.query.device, []
    for slots in levels:
        firsts = [int(own[0]) if len(own) else -1 for own in slots]  # equal for rows of one segment
        starts = [row for row in range(len(slots)) if row == 0 or firsts[row] != firsts[row - 1]]
        queries = torch.tensor([*starts, len(slots)], dtype=torch.int32, device=device)
        arrays.append((queries, *pages_of([slots[row] for row in starts], device)))
    wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(levels), workspace(case), "NHD")
    sizes = (case.shape.query_heads, case.shape.heads, case.shape.width, 1)
    columns = (list(column) for column in zip(*arrays, strict=True))
    dtype = case.query.dtype
    wrapper.plan(*columns, *sizes, sm_scale=case.scaling, q_data_type=dtype, kv_data_type=dtype)
    pool = (case.keys[:, None], case.values[:, None])
    return lambda: wrapper.run(case.query, pool)


def workspace(case: Case) -> Tensor:
    return torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=case.query.device)


def pages_of(slots: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return FlashInfer's (first page per row, pages, tokens in the last page); a page holds one token."""
    starts = np.cumsum([0, *map(len, slots)])
    last = torch.ones(len(slots), dtype=torch.int32, device=device)
    return torch.from_numpy(starts).int().to(device), torch.cat(slots).int().to(device), last


def providers(case: Case, given: argparse.Namespace) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    device, dtype = case.query.device, case.query.dtype
    found: dict[str, Callable[[], Callable[[], Tensor]]] = {}
    for kernel in IMPLEMENTATIONS:
        if kernel.name != "reference" and kernel.unusable(device, dtype) is None:
            found[f"fastrl {kernel.name}"] = lambda name=kernel.name: lambda: case.run(name)
    found |= {"flat, padded SDPA": lambda: flat(case), "tiers, padded groups": lambda: tiers(case)}
    if device.type == "cuda" and importlib.util.find_spec("flashinfer") is not None:
        found["flashinfer flat"] = lambda: flashinfer_flat(case)
        found["flashinfer cascade, 2 levels"] = lambda: flashinfer_cascade(case, by_segment=False)
        found[f"flashinfer cascade, {CUTS + 2} levels"] = lambda: flashinfer_cascade(case, by_segment=True)
    parts = (given.only or "").split(",")
    return {name: make for name, make in found.items() if any(part in name for part in parts)}


def measure(shape: Shape, given: argparse.Namespace, device: str) -> list[Row]:
    case = build(shape, device)
    rows: dict[str, Row] = {}
    runs: dict[str, Callable[[], Tensor]] = {}
    for name, make in providers(case, given).items():
        rows[name] = {"provider": name, "reason": None, **asdict(shape)}
        if attempt(rows[name], lambda make=make: make()()):
            runs[name] = make()
            rows[name]["max_error"] = error = case.error(runs[name]())
            if not error <= TOLERANCE[case.query.dtype]:
                rows[name]["reason"] = f"wrong by {error:.1e}"
    times = compare(runs, given.rounds, device, 9 if device == "cuda" else 2)
    num_tokens = int(case.plan.segments[:, 1].sum()) + shape.tail * len(case.query)
    show(str(shape), times, num_tokens * 2 * shape.heads * shape.width * case.keys.itemsize / 1e9, "GB")
    for name, row in rows.items():
        row |= times.get(name, {})
        if row["reason"]:
            print(f"  {name:24s} {row['reason']}")
    return list(rows.values())


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", choices=("cpu", "gpu"), default="gpu" if device_name() == "cuda" else "cpu"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of the CPU shapes"
    )
    parser.add_argument("--only", help="comma-separated parts of providers' names")
    parser.add_argument("--wheels", type=Path, help="a folder with competitors' wheels or files")


def main() -> None:
    given = arguments(OP, flags)
    if given.wheels is not None:
        add_wheels(given.wheels)
    results: list[dict[str, object]] = []
    for shape in shapes(given):
        results += measure(shape, given, device_name())
    finish(OP, results, given.out)


if __name__ == "__main__":
    main()
