r"""Fuzz every path that model text takes, the rows of the table in docs/security.md, with hostile text.

    python -m bench.fuzz_text [--inputs 10000] [--out bench/results/text_fuzz.json]

Inputs are assembled from what has broken parsers before (nested brackets and boxes, tags without an end,
halves of characters, truncated JSON), and then mutated. A path (bench/text_paths.py) catches the exceptions
that its code documents and may raise no other. Each path also reads repeated pieces at two lengths, one four
times the other; its CPU time may grow by MOST_GROWTH at most. Memory is measured after a tenth of the inputs
and at the end. The last line is JSON. --paths names some paths; --out then keeps the earlier results of the
others.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.text_paths import PATHS, PIECES
from fastrl.runtime.run import environment

SHORT_CHARS = 2_000
LONGEST = 4_000
"""Longest input, in characters."""
TIMES = 4
MOST_GROWTH = 3.0 * TIMES
LEAST_S = 0.1
"""Growth counts only if the longer text takes more CPU seconds than this."""


def inputs(number: int, seed: int, longest: int = LONGEST) -> Iterator[str]:
    """Yield pieces put together, and mutated copies of those."""
    draw, last = random.Random(seed), ""
    for _ in range(number):
        last = mutated(last, draw) if last and draw.random() < 0.5 else assembled(draw)
        last = last[:longest]
        yield last


def assembled(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.1:
        codes = (draw.choice((draw.randrange(128), draw.randrange(0x110000))) for _ in range(60))
        return "".join(map(chr, codes))
    if kind < 0.3:
        return draw.choice(PIECES) * draw.randrange(1, 400) + draw.choice(PIECES)
    return "".join(draw.choices(PIECES, k=draw.randrange(1, 60)))


def mutated(text: str, draw: random.Random) -> str:
    """Return a text in which a random span is removed, doubled, reversed, repeated or replaced by a piece."""
    start, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
    span = text[start:end]
    inside = draw.choice(
        ("", span * 2, span[::-1], span[:40] * 20, draw.choice(PIECES), chr(draw.randrange(65536)))
    )
    return text[:start] + inside + text[end:]


def failures(
    read: Callable[[str], object], number: int, seed: int, longest: int = LONGEST
) -> list[dict[str, str]]:
    """Return the inputs on which a path raised an exception."""
    found = []
    for text in inputs(number, seed, longest):
        try:
            read(text)
        except Exception as error:  # any exception is a finding
            found.append({"error": f"{type(error).__name__}: {error}"[:200], "text": text[:300]})
    return found


def growth(read: Callable[[str], object], piece: str) -> dict[str, float]:
    """Return the CPU seconds of a repeated piece and of four times as many, and their ratio."""
    text = piece * (SHORT_CHARS // len(piece))
    short, long = cpu_s(read, text), cpu_s(read, text * TIMES)
    return {"short_s": round(short, 4), "long_s": round(long, 4), "growth": round(long / max(short, 1e-4), 1)}


def cpu_s(read: Callable[[str], object], text: str) -> float:
    """Return the least CPU time of two tries."""
    tries = []
    for _ in range(2):
        begun = time.process_time()
        read(text)
        tries.append(time.process_time() - begun)
    return min(tries)


def slow(read: Callable[[str], object]) -> dict[str, dict[str, float]]:
    """Return the pieces whose time grows faster than their length."""
    measured = {piece: growth(read, piece) for piece in PIECES}
    return {
        piece: each
        for piece, each in measured.items()
        if each["long_s"] > LEAST_S and each["growth"] > MOST_GROWTH
    }


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def study(name: str, number: int, seed: int) -> dict[str, Any]:
    read, begun = PATHS[name], time.process_time()
    early = failures(read, number // 10, seed)
    memory = memory_mib()
    late = failures(read, number - number // 10, seed + 1)
    found = {
        "inputs": number,
        "raised": (early + late)[:20],
        "slow": slow(read),
        "memory_mib": {"at_a_tenth": round(memory, 1), "at_the_end": round(memory_mib(), 1)},
        "cpu_s": round(time.process_time() - begun, 1),
    }
    print(f"{name}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz_text")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", nargs="*", default=list(PATHS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    known = options.out is not None and options.out.exists()
    results = json.loads(options.out.read_text(encoding="utf-8"))["results"] if known else {}
    for name in options.paths:
        results[name] = study(name, options.inputs, options.seed)
        text = json.dumps({"environment": environment(), "seed": options.seed, "results": results})
        if options.out is not None:
            options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
