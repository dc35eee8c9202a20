"""Time linear_grpo_loss, forward and backward, against other libraries' head and policy loss.

    python -m bench.bench_linear_grpo_loss [--distribution random trained] [--mask dense realistic]

The ranking depends on the tokens without gradient, the inputs' sharpness and the loss (--variant).
"""

from __future__ import annotations

from itertools import product

from bench.harness import arguments, finish
from bench.inputs import CaseSpec
from bench.sidebyside import Bench, Row, device_name, flags

OP = "linear_grpo_loss"
GPU_SHAPES = (
    (8192, 896, 151936, "bfloat16"),
    (16384, 1536, 151936, "bfloat16"),
    (16384, 4096, 151936, "bfloat16"),
    (16384, 3584, 152064, "bfloat16"),
    (16384, 4096, 128256, "bfloat16"),
)
CPU_SHAPES = (
    (512, 128, 4096, "float32"),
    *((tokens, 896, 151936, dtype) for tokens in (256, 1024) for dtype in ("float32", "bfloat16")),
)


def main() -> None:
    given = arguments(OP, flags)
    device = device_name()
    shapes = GPU_SHAPES if device == "cuda" else CPU_SHAPES
    sequences = 8 if device == "cuda" else 4
    bench = Bench.start(OP, given)
    results: list[Row] = []
    shapes = shapes[:1] if given.small else shapes
    shapes = tuple(s for s in shapes if given.tokens in (None, s[0]) and given.dtype in (None, s[3]))
    for shape, distribution, mask, variant in product(shapes, given.distribution, given.mask, given.variant):
        tokens, width, vocab, dtype = shape
        spec = CaseSpec(
            tokens=tokens,
            width=width,
            vocab=vocab,
            dtype=dtype,
            num_sequences=sequences,
            distribution=distribution,
            mask=mask,
            variant=variant,
            device=device,
        )
        results += bench.table(spec)
    finish(OP, results, given.out)


if __name__ == "__main__":
    main()
