"""Time linear_logprob against other libraries': scoring (no gradient), then forward and backward.

python -m bench.bench_linear_logprob [--distribution random trained]
"""

from __future__ import annotations

from itertools import product

from bench.harness import arguments, finish
from bench.inputs import CaseSpec
from bench.sidebyside import Bench, Row, device_name, flags

OP = "linear_logprob"
GPU_SHAPES = tuple(
    (tokens, width, 151936, "bfloat16")
    for tokens, width in product((4096, 16384, 65536), (896, 1536, 2048, 4096))
)
CPU_SHAPES = (
    (512, 128, 4096, "float32"),
    *((tokens, 896, 151936, dtype) for tokens in (256, 1024) for dtype in ("float32", "bfloat16")),
)
MAX_TRAINED_TOKENS = 16384
"""Larger batches are only scored: dense log-probs and their gradients would not fit."""


def main() -> None:
    given = arguments(OP, flags)
    device = device_name()
    shapes = GPU_SHAPES if device == "cuda" else CPU_SHAPES
    bench = Bench.start(OP, given)
    results: list[Row] = []
    for shape, distribution in product(shapes[:1] if given.small else shapes, given.distribution):
        tokens, width, vocab, dtype = shape
        spec = CaseSpec(
            tokens=tokens, width=width, vocab=vocab, dtype=dtype, distribution=distribution, device=device
        )
        results += bench.table(spec, train=False)
        if tokens <= MAX_TRAINED_TOKENS:
            results += bench.table(spec)
    finish(OP, results, given.out)


if __name__ == "__main__":
    main()
