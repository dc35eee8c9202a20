"""List registers, spills and shared memory of every GPU kernel, compiled ahead of time without a GPU.

    python -m bench.resources [--triton-only] [--archs sm_80 sm_90a]

Exits with 1 if a kernel spills registers or does not compile.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TRITON_ARCHS = {"sm_80": 80, "sm_90a": 90}
NVCC_ARCHS = ("80", "90a")
# Dtypes of pointer arguments, by name; others are fp32 unless a case overrides it.
POINTS_TO = {
    **dict.fromkeys(("max", "others", "excluded", "weighted", "sum_z", "target"), "fp64"),
    **dict.fromkeys(("terms", "partials", "stats"), "fp64"),
    **dict.fromkeys(("ids", "rows", "group_ids"), "i64"),
    **dict.fromkeys(("cu_seqlens", "lengths"), "i32"),
    **dict.fromkeys(("depths", "subtree_stop", "bounds", "tiles"), "i32"),
    **dict.fromkeys(("items", "trunk_starts", "prefix_lengths", "tail_lengths", "block_table"), "i32"),
    **dict.fromkeys(("top1", "computed", "loss_mask"), "i1"),
}
FLOATS = ("outward", "inward")


@dataclass(frozen=True, slots=True)
class Case:
    """One specialisation of a kernel; absent tensors are None in `constants`."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    dtypes: dict[str, str]
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resources:
    kernel: str
    arch: str
    registers: int
    spill_bytes: int
    shared_bytes: int


def triton_cases() -> Iterator[Case]:
    yield from _row_cases()
    yield from _token_cases()
    yield from _decode_cases()
    yield from _prefix_cases()
    from fastrl.kernels.group_advantage.triton_impl import BLOCK, OPTIONS, group_advantage_kernel

    for scale, baseline in (("std", "leave_one_out"), ("batch", "mean")):
        constants = {"SCALE": scale, "BASELINE": baseline, "BLOCK": BLOCK}
        yield Case(f"group_advantage {scale}", group_advantage_kernel, constants, {}, OPTIONS)


def _row_cases() -> Iterator[Case]:
    from fastrl.kernels.linear_logprob.triton_kernels import floor_kernel, gradient_kernel, score_kernel
    from fastrl.kernels.linear_logprob.triton_rows import FLOORS, GRADIENT, SCORE

    absent = {"bias": None, "temperature": None}
    for name, kernel, blocks, rest in (
        ("score", score_kernel, SCORE, {"floor": None}),
        ("gradient", gradient_kernel, GRADIENT, {"floor": None, "grad_entropy": None}),
        ("floors", floor_kernel, FLOORS, {}),
    ):
        for aligned in (True, False):
            given = blocks.options(8 if aligned else 1)
            options = {key: given.pop(key) for key in ("num_warps", "maxnreg", "enable_fp_fusion")}
            title = f"{name} fp32{'' if aligned else ' unaligned'}"
            plain = {**absent, **rest, **given, "CAPPED": False}
            yield Case(title, kernel, plain, {"out": "bf16"} if name == "gradient" else {}, options)
            capped = {**given, "CAPPED": True}
            half = {"logits": "bf16", "bias": "bf16"} | ({"out": "bf16"} if name == "gradient" else {})
            yield Case(title.replace("fp32", "bf16, all options"), kernel, capped, half, options)


def _token_cases() -> Iterator[Case]:
    from fastrl.kernels.grpo_loss import triton_kernels
    from fastrl.kernels.grpo_loss.triton_tokens import BLOCK, OPTIONS

    select = {"PER_TOKEN": False, "LEAVE_OUT": True, "WHOLE": True, "BLOCK": BLOCK}
    yield Case("select", triton_kernels.select_kernel, select, {}, OPTIONS)
    whole = {"CORRECTION": "truncate", "BLOCK": BLOCK}
    yield Case("sequence", triton_kernels.sequence_kernel, whole, {}, OPTIONS)
    common = {"PER_TOKEN": False, "BLOCK": BLOCK, "KL": "k3", "KL_RATIO": False}
    tensors = ("rows", "rollout_logprobs", "ref_logprobs", "terms", "grad_entropy")
    modes = ("SEQUENCE_RATIO", "SEQUENCE_CORRECTION", "SEQUENCE_MEAN")
    plain = {**common, **dict.fromkeys(tensors), **dict.fromkeys(modes, False), "CORRECTION": "none"}
    yield Case("token dapo", triton_kernels.token_kernel, {**plain, "POLICY": "clip"}, {}, OPTIONS)
    for policy in ("clip", "weight_around_one"):
        full = {**common, **dict.fromkeys(modes, True), "CORRECTION": "mask", "POLICY": policy}
        yield Case(f"token {policy}, all options", triton_kernels.token_kernel, full, {}, OPTIONS)
    yield Case("fold", triton_kernels.fold_kernel, {"BLOCK": BLOCK}, {}, OPTIONS)


def _decode_cases() -> Iterator[Case]:
    import triton.language as tl

    from fastrl.kernels.tree_decode.triton_impl import MERGE, MERGE_OPTIONS, Blocks
    from fastrl.kernels.tree_decode.triton_kernels import decode_kernel, decode_merge_kernel

    for dtype, dot, width, aligned, options in (
        ("bf16", tl.bfloat16, 64, True, True),
        ("bf16", tl.bfloat16, 128, True, False),
        ("bf16", tl.bfloat16, 128, True, True),
        ("bf16", tl.bfloat16, 256, True, True),
        ("bf16", tl.bfloat16, 256, False, True),
        ("fp32", tl.float32, 128, True, True),
        ("fp32", tl.float32, 256, False, True),
    ):
        blocks = Blocks.of(width, width, 7, 2 if dtype == "bf16" else 4, aligned)
        constants = {**blocks.constants, "WINDOWED": options, "CAPPED": options, "DOT": dot}
        name = f"decode {width} {dtype}{'' if aligned else ' unaligned'}{', all options' if options else ''}"
        pointers = dict.fromkeys(("query", "keys", "values"), dtype)
        yield Case(name, decode_kernel, constants, pointers, blocks.options)
    for dtype in ("bf16", "fp32"):
        merge = {**MERGE, "BLOCK_V": 128}
        yield Case(f"decode_merge {dtype}", decode_merge_kernel, merge, {"out": dtype}, MERGE_OPTIONS)


def _prefix_cases() -> Iterator[Case]:
    import triton.language as tl

    from fastrl.kernels.prefix_attention import triton_kernels
    from fastrl.kernels.prefix_attention.triton_impl import DELTA_ROWS, constants, tiles_of

    tensors = ("query", "key", "value", "grad", "out", "grad_query", "grad_key", "grad_value")
    dtypes = dict.fromkeys(tensors, "bf16")
    for head, options in ((64, True), (96, True), (128, False), (256, True)):
        tiles, common = tiles_of(head), constants(head, head, options, options, tl.bfloat16)
        for part in ("forward", "query_gradient", "key_gradient"):
            kernel, tile = getattr(triton_kernels, f"prefix_{part}_kernel"), getattr(tiles, part)
            title = f"prefix_{part} K {head}{', all options' if options else ''}"
            yield Case(title, kernel, {**common, **tile.constants()}, dtypes, tile.options())
    rows = {"HEAD_VALUE": 96, "BLOCK_VALUE": 128, "TILE_QUERY": DELTA_ROWS}
    kernel, options = triton_kernels.prefix_delta_kernel, tiles_of(96).forward.options()
    yield Case("prefix_delta K 96", kernel, rows, dtypes, options)


def signature(case: Case) -> dict[str, str]:
    """Return the types of the arguments; every other argument must be a pointer or do_not_specialize."""
    types = {}
    for param in case.kernel.params:
        if param.name in case.constants:
            types[param.name] = "constexpr"
        elif param.annotation_type:
            types[param.name] = param.annotation_type
        elif param.do_not_specialize:
            types[param.name] = "fp32" if param.name in FLOATS else "i32"
        else:
            types[param.name] = "*" + case.dtypes.get(param.name, POINTS_TO.get(param.name, "fp32"))
    return types


def compile_case(case: Case, arch: str) -> Resources:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    types = signature(case)
    places = {name: place for place, name in enumerate(types)}
    attrs = {(places[name],): [["tt.divisibility", 16]] for name in types if types[name].startswith("*")}
    source = ASTSource(case.kernel, types, constexprs=case.constants, attrs=attrs)
    target = GPUTarget("cuda", TRITON_ARCHS[arch], 32)
    compiled = triton.compile(source, target=target, options=case.options)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(compiled.asm["ptx"])
        fused = [] if case.options["enable_fp_fusion"] else ["--fmad=false"]
        command = [
            get_ptxas(TRITON_ARCHS[arch]).path,
            "-v",
            *fused,
            f"--gpu-name={arch}",
            ptx,
            "-o",
            os.devnull,
        ]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (found,) = read_ptxas(log, arch)
    return Resources(
        f"triton {case.name}", arch, found.registers, found.spill_bytes, compiled.metadata.shared
    )


def compile_numbered(number: int, arch: str) -> Resources:
    """Compile case `number` in a worker process; kernels can't be pickled, so it builds the cases itself."""
    return compile_case(list(triton_cases())[number], arch)


def compile_cuda(nvcc: str, source: Path, arch: str) -> list[Resources]:
    command = [nvcc, "-std=c++17", "-I", ROOT / "csrc", "-Xptxas", "-v", "-O3"]
    command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}", "-c", source, "-o", os.devnull]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"[bench] {source.name}: expected it to compile for sm_{arch}, got\n{done.stderr}")
    return read_ptxas(done.stderr, f"sm_{arch}")


def read_ptxas(log: str, arch: str) -> list[Resources]:
    """Parse the resources of each kernel from `ptxas -v`."""
    found = []
    for part in log.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name is None or registers is None:
            raise SystemExit(f"[bench] ptxas: expected a kernel's name and registers, got\n{part}")
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", part)
        shared = re.search(r"(\d+) bytes smem", part)
        found.append(
            Resources(
                kernel=f"cuda {_readable(name[1])}",
                arch=arch,
                registers=int(registers[1]),
                spill_bytes=sum(map(int, spills)),
                shared_bytes=int(shared[1]) if shared else 0,
            )
        )
    return found


def _readable(mangled: str) -> str:
    """Return the kernel's name without namespace and types."""
    names = re.findall(r"[a-z]\w*?_kernel", re.sub(r"^_Z\w*?\d+(?=[a-z_]+_kernel)", "", mangled))
    return names[0] if names else mangled


def show(rows: list[Resources]) -> None:
    width = max(len(row.kernel) for row in rows)
    print(f"{'kernel':{width}s}  arch     registers  spill bytes  shared bytes")
    for row in rows:
        print(
            f"{row.kernel:{width}s}  {row.arch:7s}  {row.registers:9d}  {row.spill_bytes:11d}  "
            f"{row.shared_bytes:12d}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.resources")
    parser.add_argument("--triton-only", action="store_true", help="leave csrc out")
    parser.add_argument(
        "--archs",
        nargs="+",
        choices=TRITON_ARCHS,
        default=list(TRITON_ARCHS),
        help="targets of the Triton kernels",
    )
    given = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("[bench] TRITON_INTERPRET: expected it unset, got 1; nothing would be compiled")
    numbers = range(sum(1 for _ in triton_cases()))
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(compile_numbered, *zip(*product(numbers, given.archs), strict=True)))
    nvcc = shutil.which("nvcc")
    if nvcc is None and not given.triton_only:
        print("csrc is left out: nvcc is not on the path")
    elif nvcc is not None and not given.triton_only:
        sources = sorted((ROOT / "csrc").rglob("*.cu"))
        rows += [row for source in sources for arch in NVCC_ARCHS for row in compile_cuda(nvcc, source, arch)]
    show(rows)
    if spilled := [f"{row.kernel} {row.arch}" for row in rows if row.spill_bytes]:
        raise SystemExit(f"[bench] spills: expected none, got some in {', '.join(spilled)}")


if __name__ == "__main__":
    main()
