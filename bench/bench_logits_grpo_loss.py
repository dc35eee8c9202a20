"""Time logits_grpo_loss, forward and backward, against other libraries' losses on logits."""

from __future__ import annotations

from bench.competitors import add_wheels
from bench.harness import arguments, finish
from bench.ready_logits import table
from bench.sidebyside import Row, device_name, flags

OP = "logits_grpo_loss"
SHAPES = {
    "cuda": ((8, 2048, 151936, "bfloat16"), (32, 512, 151936, "bfloat16")),
    "cpu": ((4, 64, 4096, "float32"), (4, 64, 151936, "float32"), (4, 64, 151936, "bfloat16")),
}


def main() -> None:
    given = arguments(OP, flags)
    device = device_name()
    if given.wheels is not None:
        add_wheels(given.wheels)
    results: list[Row] = []
    for shape in SHAPES[device][:1] if given.small else SHAPES[device]:
        results += table(shape, given, device)
    finish(OP, results, given.out)


if __name__ == "__main__":
    main()
