"""Decoding over random forests against float64; cache slots that a row must not read are NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from backends import INTERPRETED
from gpu_cases import GPU
from torch import Tensor

from fastrl.ops import DecodePlan, tree_decode

TRITON = pytest.param("cuda", "triton", marks=GPU)
ON_GPU = [TRITON, pytest.param("cuda", "torch", marks=GPU)]
SAME_BITS = [("cpu", "cpp"), *([("cpu", "triton")] if INTERPRETED else []), TRITON]
BACKENDS = [*SAME_BITS, ("cpu", "torch"), ("cpu", "reference"), ON_GPU[1]]
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 5e-6},
    torch.bfloat16: {"rtol": 1e-2, "atol": 5e-3},
    torch.float16: {"rtol": 2e-3, "atol": 1e-3},
}
NOT_READ = (-1, 2**30)


@dataclass(frozen=True)
class Case:
    query: Tensor
    keys: Tensor
    values: Tensor
    plan: DecodePlan
    tail_lengths: Tensor
    slots: list[list[int]]
    """What each row sees, root first."""

    def run(self, backend: str, **options) -> Tensor:
        tensors = (self.query, self.keys, self.values, self.plan, self.tail_lengths)
        return tree_decode(*tensors, scaling=options.pop("scaling", 0.3), **options, backend=backend)

    def alone(self, *rows: int) -> Case:
        query, lengths = self.query[list(rows)], self.tail_lengths[list(rows)]
        slots = [self.slots[row] for row in rows]
        return Case(query, self.keys, self.values, self.plan.keep(rows), lengths, slots)


def forest(rng: np.random.Generator, rows: int, longest: int) -> list[tuple[int, int, int, int]]:
    """(length, row_start, row_stop, position) of segments; rows end anywhere, some above the first root."""
    found = []

    def grow(start: int, stop: int, position: int, depth: int) -> None:
        while start < stop:
            end = int(rng.integers(start + 1, stop + 1))
            if depth and rng.random() < 0.75:
                length = int(rng.integers(1, longest + 1))
                found.append((length, start, end, position))
                grow(start, end, position + length, depth - 1)
            start = end

    grow(0, rows, 0, 3)
    return found


def make_case(
    rows: int, heads: tuple[int, int] = (4, 2), widths: tuple[int, int] = (16, 16), *,
    tails: list[int] | None = None, longest: int = 9, block_size: int = 4, split: int = 512,
    segments: list[tuple[int, int, int, int]] | None = None, dtype: torch.dtype = torch.float32,
    device: str = "cpu", seed: int = 0,
) -> Case:  # fmt: skip
    rng = np.random.default_rng(seed)
    segments = forest(rng, rows, longest) if segments is None else segments
    tails = rng.integers(1, 14, rows).tolist() if tails is None else tails
    blocks = -(-max(tails, default=1) // block_size) + 1
    used = [-(-length // block_size) for length in tails]
    sizes = [length for length, *_ in segments] + [block_size] * sum(used)
    starts, end = np.zeros(len(sizes), dtype=np.int64), 3
    for i in rng.permutation(len(sizes)):
        starts[i] = end
        end += sizes[i] + int(rng.integers(0, 4))
    table = rng.choice(NOT_READ, (rows, blocks))
    placed = starts[len(segments) :].tolist()
    slots: list[list[int]] = [[] for _ in range(rows)]
    for slot, (length, start, stop, _) in sorted(zip(starts, segments, strict=False), key=lambda s: s[1][3]):
        for row in range(start, stop):
            slots[row] += range(slot, slot + length)
    prefix_lengths = [len(own) for own in slots]
    for row, (count, length) in enumerate(zip(used, tails, strict=True)):
        table[row, :count] = [placed.pop(0) for _ in range(count)]
        slots[row] += [int(table[row, t // block_size]) + t % block_size for t in range(length)]
    plan = DecodePlan.make(
        [(slot, *rest[:3]) for slot, rest in zip(starts, segments, strict=False)],
        [position for *_, position in segments], prefix_lengths,
        torch.from_numpy(table.astype(np.int32)).to(device), block_size=block_size, split=split,
    )  # fmt: skip
    torch.manual_seed(seed)
    seen = torch.tensor(sorted({slot for own in slots for slot in own}), dtype=torch.int64)
    pools = []
    for width in widths:
        pool = torch.full((end + 8, heads[1], width), math.nan)
        pool[seen] = torch.randn(len(seen), heads[1], width)
        pools.append(pool.to(device, dtype))
    query = torch.randn(rows, heads[0], widths[0]).to(device, dtype)
    return Case(query, *pools, plan, torch.tensor(tails, dtype=torch.int32, device=device), slots)


def oracle(
    case: Case, scaling: float = 0.3, softcap: float | None = None, window: int | None = None
) -> Tensor:
    """float64, a query after the other."""
    query, keys, values = (each.cpu().double() for each in (case.query, case.keys, case.values))
    group = query.shape[1] // keys.shape[1]
    out = torch.empty(*query.shape[:2], values.shape[2], dtype=torch.float64)
    for row, own in enumerate(case.slots):
        visible = own if window is None else own[max(0, len(own) - window) :]
        for head in range(query.shape[1]):
            products = scaling * (keys[visible, head // group] @ query[row, head])
            scores = products if softcap is None else softcap * (products / softcap).tanh()
            e = (scores - scores.max()).exp()
            out[row, head] = (e / e.sum()) @ values[visible, head // group]
    return out


def compare(case: Case, backend: str, **options) -> None:
    found = case.run(backend, **options)
    assert found.dtype == case.query.dtype
    torch.testing.assert_close(found.cpu().double(), oracle(case, **options), **TOLERANCE[found.dtype])


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_hand_worked(device, backend):
    # row 0: weights 1 : 3 on values 4 and 8; row 1 has no trunk, weights 1 : 1 on 2 and 0
    keys = torch.tensor([1.0, 3.0, 1.0, 1.0, math.nan], device=device).log()[:, None, None]
    values = torch.tensor([4.0, 8.0, 2.0, 0.0, math.nan], device=device)[:, None, None]
    table = torch.tensor([[1, 4], [2, 3]], dtype=torch.int32, device=device)
    plan = DecodePlan.make([(0, 1, 0, 1)], [0], [1, 0], table, block_size=1)
    lengths = torch.tensor([1, 2], dtype=torch.int32, device=device)
    query = torch.ones(2, 1, 1, device=device)
    for window, wanted in ((None, [7.0, 1.0]), (2, [7.0, 1.0]), (1, [8.0, 0.0])):
        out = tree_decode(query, keys, values, plan, lengths, scaling=1.0, window=window, backend=backend)
        torch.testing.assert_close(out.flatten().cpu(), torch.tensor(wanted))


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_random_forests(device, backend, seed):
    compare(make_case(6, (3, 1), seed=seed, device=device, split=(4, 512)[seed % 2]), backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("group", range(1, 8))
def test_query_groups(device, backend, group):
    compare(make_case(5, heads=(2 * group, 2), seed=group, device=device), backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize(
    "widths", [(16, 16), (24, 24), (64, 64), (96, 96), (128, 128), (256, 256), (24, 8), (7, 13), (64, 48)]
)
def test_widths(device, backend, widths):
    compare(make_case(4, (2, 1), widths, seed=1, device=device), backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_tails_of_every_length(device, backend, block_size):
    tails = [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 47]
    case = make_case(len(tails), (2, 1), tails=tails, block_size=block_size, split=32, seed=2, device=device)
    compare(case, backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("split", [10, 64, 512])
def test_long_segments(device, backend, split):
    segments = [(33, 0, 6, 0), (64, 0, 3, 33), (31, 1, 3, 97), (100, 3, 6, 33)]
    case = make_case(6, segments=segments, split=split, device=device)
    assert case.plan.pieces[:, 1].max() <= split
    compare(case, backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_nothing_is_shared(device, backend):
    compare(make_case(3, segments=[], device=device), backend)
    compare(make_case(3, segments=[(5, 1, 2, 0)], device=device), backend)
    none = make_case(0, device=device)
    assert none.run(backend).shape == (0, 4, 16)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("window", [1, 8, 33, 70, 1000])
def test_windows(device, backend, window):
    """Shorter than a tail, into the trunk, larger than all; on the borders of a reading of 32 tokens, too."""
    segments = [(40, 0, 5, 0), (30, 1, 4, 40), (3, 1, 2, 70)]
    tails = [1, 40, 7, 33, 12]
    case = make_case(5, (2, 1), segments=segments, tails=tails, split=20, seed=window, device=device)
    compare(case, backend, window=window)
    for row in (0, 1):  # what all rows of a piece are past may be anything
        alone = case.alone(row)
        passed = set(alone.slots[0][: max(0, len(alone.slots[0]) - window)])
        keys, values = alone.keys.clone(), alone.values.clone()
        keys[list(passed)], values[list(passed)] = math.nan, math.nan
        broken = Case(alone.query, keys, values, alone.plan, alone.tail_lengths, alone.slots)
        compare(broken, backend, window=window)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("options", [{"softcap": 0.5}, {"softcap": 20.0, "window": 9}, {"scaling": 1.7}])
def test_options(device, backend, options):
    compare(make_case(6, seed=3, device=device), backend, **options)


@pytest.mark.parametrize("device, backend", BACKENDS)
@pytest.mark.parametrize("widths", [(32, 32), (24, 40), (5, 3)])
def test_bfloat16(device, backend, widths):
    case = make_case(6, (6, 2), widths, longest=40, dtype=torch.bfloat16, seed=4, device=device)
    compare(case, backend, softcap=30.0, window=50)


@pytest.mark.parametrize("device, backend", [("cpu", "torch"), ("cpu", "reference"), *ON_GPU])
def test_float16(device, backend):
    compare(make_case(6, dtype=torch.float16, device=device), backend)


@pytest.mark.parametrize("backend", ["torch", "reference", "auto"])
def test_float64(backend):
    compare(make_case(6, dtype=torch.float64), backend, softcap=2.0, window=7)


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_huge_logits(device, backend):
    """Exact products of up to 10^5: weights are those of the largest scores, and nothing overflows."""
    case = make_case(6, seed=5, device=device)
    case.query.copy_((4 * case.query).round())
    case.keys.copy_((4 * case.keys).round())
    compare(case, backend, scaling=256.0)


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_strides_are_free(device, backend):
    case = make_case(5, seed=6, device=device)
    wanted = case.run(backend)
    query = torch.stack([case.query, case.query], 1).transpose(0, 2)[:, 1].transpose(0, 1)
    keys = case.keys.transpose(0, 1).contiguous().transpose(0, 1)
    values = torch.cat([torch.full_like(case.values, math.nan), case.values], 2)[..., 16:]
    assert not (query.is_contiguous() or keys.is_contiguous() or values.is_contiguous())
    moved = Case(query, keys, values, case.plan, case.tail_lengths, case.slots)
    torch.testing.assert_close(moved.run(backend), wanted)
    compare(moved, backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_tails_grow_in_place(device, backend):
    """The plan stays as it is; a new block is written into its table."""
    case = make_case(4, tails=[3, 4, 7, 8], block_size=4, seed=7, device=device)
    lengths, keys = case.tail_lengths.clone(), torch.cat([case.keys, torch.randn_like(case.keys[:8])])
    values = torch.cat([case.values, torch.randn_like(case.values[:8])])
    first = len(case.keys)
    case.plan.block_table[1, 1], case.plan.block_table[3, 2] = first, first + 4
    lengths[1] += 1
    lengths[3] += 2
    slots = [case.slots[0], [*case.slots[1], first], case.slots[2], [*case.slots[3], first + 4, first + 5]]
    compare(Case(case.query, keys, values, case.plan, lengths, slots), backend)


@pytest.mark.parametrize("device, backend", BACKENDS)
def test_rows_leave(device, backend):
    case = make_case(9, (2, 1), seed=8, split=4, device=device)
    for rows in ([0, 2, 3, 7], [8], []):
        compare(case.alone(*rows), backend) if rows else None
        again = case.plan.keep(rows).keep(range(len(rows)))
        assert again.num_rows == len(rows)
    case.plan.keep([1]).block_table.fill_(-1)
    compare(case, backend)


def test_a_kept_plan_is_the_plan_of_those_rows():
    for seed in range(20):
        case = make_case(9, seed=seed, split=4)
        rows = sorted(np.random.default_rng(seed).permutation(9)[:5].tolist())
        counted = [
            (slot, length, sum(r < start for r in rows), sum(r < stop for r in rows))
            for slot, length, start, stop in case.plan.segments.tolist()
        ]
        made = DecodePlan.make(
            counted, case.plan.positions, case.plan.prefix_lengths[rows], case.plan.block_table[rows],
            block_size=4, split=4,
        )  # fmt: skip
        kept = case.plan.keep(rows)
        for name in ("segments", "positions", "prefix_lengths", "pieces", "trunk_starts", "block_table"):
            assert np.array_equal(getattr(kept, name), getattr(made, name)), name
        assert torch.equal(kept.work(2).items, made.work(2).items)


@pytest.mark.parametrize("device, backend", SAME_BITS)
@pytest.mark.parametrize("options", [{}, {"window": 21, "softcap": 3.0}], ids=["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_its_bits_in_any_batch(device, backend, options, dtype):
    segments = [(50, 0, 7, 0), (33, 0, 6, 50), (9, 2, 5, 83)]
    tails = [1, 33, 40, 8, 16, 31, 70]
    case = make_case(
        7, (3, 1), (24, 24), segments=segments, tails=tails, split=40, dtype=dtype, device=device
    )
    together = case.run(backend, **options)
    assert torch.equal(case.run(backend, **options), together)
    # products of NumPy's, which Triton's interpreter takes, depend on the place of a row in its tile
    anywhere = ([3], [6], [1, 2, 3, 4], [0, 4, 5]) if (device, backend) != ("cpu", "triton") else ()
    for rows in ([0], [0, 1, 2, 3], *anywhere):
        assert torch.equal(case.alone(*rows).run(backend, **options), together[rows])


@pytest.mark.parametrize("group", range(1, 8))
def test_bits_do_not_depend_on_the_batch_or_on_threads(group, threads):
    """Sums large enough for several threads, and groups of queries of every size."""
    segments = [(3000, 0, 48, 0), (900, 0, 40, 3000), (2000, 40, 47, 3000)]
    tails = [1 + 5 * row % 97 for row in range(48)]
    case = make_case(48, (4 * group, 4), (64, 40), segments=segments, tails=tails, block_size=16)
    threads(1)
    together = case.run("cpp")
    for row in (0, 17, 41, 47):
        assert torch.equal(case.alone(row).run("cpp")[0], together[row])
    for count in (2, 5):
        threads(count)
        assert torch.equal(case.run("cpp"), together)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_graph_follows_the_tails():
    case = make_case(5, tails=[9, 9, 9, 9, 9], device="cuda")
    lengths = torch.ones_like(case.tail_lengths)
    step = Case(case.query, case.keys, case.values, case.plan, lengths, case.slots)
    step.run("triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step.run("triton")
    for length in (1, 4, 5, 9):
        lengths.fill_(length)
        graph.replay()
        slots = [own[: len(own) - 9 + length] for own in case.slots]
        seen = Case(case.query, case.keys, case.values, case.plan, lengths, slots)
        torch.testing.assert_close(out.cpu().double(), oracle(seen), **TOLERANCE[torch.float32])


PLAN = {"segments": [(0, 2, 0, 2), (2, 3, 0, 1)], "positions": [0, 2], "prefix_lengths": [5, 2]}
TABLE = torch.zeros(2, 1, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": [0, 1]}, "segments: expected the same 1 tokens above"),
        ({"positions": [0]}, r"positions: expected shape \(2,\)"),
        ({"segments": [(0, 2, 0, 1), (2, 3, 0, 2)]}, "segments: expected the same 2 tokens above"),
        ({"segments": [(-1, 2, 0, 2), (2, 3, 0, 1)]}, "segments: expected slots in"),
        ({"segments": [(2**32, 2, 0, 2), (2, 3, 0, 1)]}, "segments: expected slots in"),
        ({"segments": [(0, 2, 0, 3), (2, 3, 0, 1)]}, "segments: expected .* rows in"),
        ({"prefix_lengths": [5, 3]}, "prefix_lengths: expected the tokens above each row"),
        ({"prefix_lengths": [5]}, r"block_table: expected shape \(1, 'B'\)"),
        ({"block_size": 0}, "block_size, split: expected >= 1"),
        ({"split": 0}, "block_size, split: expected >= 1"),
        ({"block_table": torch.zeros(2, 2, dtype=torch.int32).T}, "block_table: expected a contiguous"),
    ],
)
def test_plans_refused(change, words):
    arguments = {**PLAN, "block_table": TABLE, "block_size": 1, **change}
    with pytest.raises(ValueError, match=rf"\[tree_decode\] {words}"):
        DecodePlan.make(**arguments)


def test_segments_without_rows_or_tokens_are_left_out():
    plan = DecodePlan.make([(0, 0, 0, 2), (7, 3, 1, 1)], [0, 9], [0, 0], TABLE, block_size=1)
    assert len(plan.segments) == len(plan.pieces) == 0
    for rows in ([1, 0], [0, 0], [-1], [2]):
        with pytest.raises(ValueError, match=r"\[tree_decode\] rows: expected rising numbers"):
            plan.keep(rows)
    with pytest.raises(TypeError, match=r"block_table: expected torch\.int32"):
        DecodePlan.make([], [], [0, 0], TABLE.long(), block_size=1)


def test_refusals():
    case = make_case(3)
    given = {
        "query": case.query, "keys": case.keys, "values": case.values, "plan": case.plan,
        "tail_lengths": case.tail_lengths, "scaling": 1.0,
    }  # fmt: skip
    for change, error, words in (
        ({"query": case.query[:2]}, ValueError, "query: expected shape"),
        ({"query": case.query[:, :3]}, ValueError, "keys: expected K = 16 and a divisor of 3 heads"),
        ({"query": case.query.long()}, TypeError, "query: expected"),
        ({"keys": case.keys.double()}, TypeError, "keys: expected torch.float32"),
        ({"keys": case.keys[..., :8]}, ValueError, "keys: expected K = 16"),
        ({"keys": case.keys.mT.contiguous().mT}, ValueError, "keys: expected .* contiguous"),
        ({"keys": case.keys[:4], "values": case.values[:4]}, ValueError, "keys: expected at least the"),
        ({"values": case.values[:-1]}, ValueError, "values: expected shape"),
        ({"tail_lengths": case.tail_lengths.long()}, TypeError, "tail_lengths: expected torch.int32"),
        ({"tail_lengths": case.tail_lengths[:2]}, ValueError, "tail_lengths: expected shape"),
        ({"tail_lengths": case.tail_lengths * 0}, ValueError, "tail_lengths: expected 1 .. "),
        ({"tail_lengths": case.tail_lengths + 99}, ValueError, "tail_lengths: expected 1 .. "),
        ({"window": 0}, ValueError, "window: expected >= 1"),
        ({"softcap": 0.0}, ValueError, "softcap: expected > 0"),
        ({"query": case.query.clone().requires_grad_()}, RuntimeError, "query: expected tensors without"),
        ({"backend": "cuda"}, ValueError, "backend: expected auto or one of"),
    ):
        with pytest.raises(error, match=rf"\[tree_decode\] {words}"):
            tree_decode(**{**given, "backend": "cpp", **change})


def test_slots_outside_the_pool_are_refused():
    case = make_case(3, tails=[3, 9, 3])
    for slot in (-1, len(case.keys) - 3):
        case.plan.block_table[1, 1] = slot
        with pytest.raises(ValueError, match=r"plan.block_table: expected slots 0 .. \d+, got .* in row 1"):
            case.run("cpp")
