"""One grading process: a [prediction, gold] a line in, a verdict a line out. No torch, only math-verify."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable

MEMORY_BYTES = 4 << 30
ORPHAN_GRACE_S = 1.0


def main() -> None:
    """Grade until standard input ends. Argument: the seconds after which the parent kills us."""
    timeout_s = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a parent that was killed is no error to report
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else prints must not look like a verdict
    _limit_memory()
    logging.disable(logging.WARNING)  # math-verify warns that nobody limits its time; the parent does
    compare = load_comparison()
    compare(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}")  # first use loads much; no pair should pay for it
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        prediction, gold = json.loads(line)
        # should the parent be gone, the system ends this process whatever the interpreter is stuck in
        signal.setitimer(signal.ITIMER_REAL, timeout_s + ORPHAN_GRACE_S)
        verdict = compare(prediction, gold)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(verdict, file=replies, flush=True)


def load_comparison() -> Callable[[str, str], str]:
    """math-verify on two bare answers: "correct", "wrong", or "unreadable" for a prediction it can't read."""
    from math_verify import LatexExtractionConfig, parse, verify

    boxed_only = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]

    def read(answer: str) -> list[object]:
        parsed: list[object] = parse(f"\\boxed{{{answer}}}", boxed_only, parsing_timeout=None)
        return parsed

    def compare(prediction: str, gold: str) -> str:
        mine = read(prediction)
        if verify(read(gold), mine, timeout_seconds=None):
            return "correct"
        return "wrong" if any(not isinstance(item, str) for item in mine) else "unreadable"

    return compare


def _limit_memory() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main()
