"""A grading process: reads one task per line, writes one verdict with its rule per line. Loads no torch.

Loading takes a second and happens once. A fork grades, so that one that hangs is replaced at once.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import IO

MEMORY_BYTES = 4 << 30
ORPHAN_GRACE_S = 1.0
WARM_UP = (
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    ("x < 3", "x > 3"),
    (r"1 \le x < 5", "[1, 5)"),
    (r"\sin(2x)", r"2 \sin x \cos x"),
    (r"\ln 2", r"\log_{10} 2"),
    (r"\pi^{e}", r"e^{\pi}"),
)
"""Pairs that are compared before the first fork: the first use of a part of sympy takes up to 0.3 s."""
SIGNALS = (signal.SIGUSR1, signal.SIGCHLD)
"""SIGUSR1: the parent wants another child. SIGCHLD: a child has ended."""


def main() -> None:
    """Load, then fork one grading child after the other until standard input ends.

    Command-line argument: the seconds after which the parent stops a child.
    """
    timeout_s = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end silently if the parent was killed
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # other prints must not look like a verdict
    _limit_memory()
    logging.disable(logging.WARNING)  # math-verify warns about a missing time limit, which the parent has
    compare = load_comparison()
    for pair in WARM_UP:
        compare(*pair)
    gc.freeze()
    while True:
        print("ready", file=replies, flush=True)
        child = os.fork()
        if not child:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            grade(compare, replies, timeout_s)
            os._exit(0)
        if wait_for(child) == 0:  # standard input has ended
            return


def wait_for(child: int) -> int:
    """Wait for the child and return its status; kill it on SIGUSR1."""
    while True:
        if signal.sigwait(SIGNALS) == signal.SIGUSR1:
            os.kill(child, signal.SIGKILL)  # its id can't be reused before waitpid
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


def grade(compare: Callable[..., tuple[str, str]], replies: IO[str], timeout_s: float) -> None:
    """Answer requests. A timer of the system ends this process if the parent is gone and a request hangs."""
    for line in sys.stdin:
        number, answer, gold, level, tolerance, whole = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + ORPHAN_GRACE_S)
        reply = compare_whole(answer, gold) if whole else compare(answer, gold, level, tolerance)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(number, *reply, file=replies, flush=True)


def load_comparison() -> Callable[..., tuple[str, str]]:
    """Load sympy and return a function from (answer, gold, level, tolerance) to (verdict, rule).

    The verdict is "correct", "wrong", or "unreadable" if algebra can't read one of the two.
    """
    from fastrl.grading.algebra import FAILURES, SympyAlgebra
    from fastrl.grading.compare import Judge
    from fastrl.grading.levels import LEVELS

    algebra = SympyAlgebra()

    def compare(answer: str, gold: str, level: str = "strict", tolerance: float = 0.0) -> tuple[str, str]:
        judge = Judge(LEVELS[level], tolerance, algebra)
        try:
            equal = judge.compare(answer, gold)
        except FAILURES as error:
            return "unreadable", f"algebra failed: {type(error).__name__}"
        verdict = "unreadable" if equal is None else "correct" if equal else "wrong"
        return verdict, judge.rule

    return compare


def compare_whole(text: str, gold: str) -> tuple[str, str]:
    """Grade a whole response with only math-verify, as the weak-supervision paper (arXiv 2604.18574) does.

    math-verify reads the gold answer from a box, and searches the response for expressions and LaTeX.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    rule = "math-verify on the whole response"
    stated = parse(text, [ExprExtractionConfig(), LatexExtractionConfig()], parsing_timeout=None)
    if not stated:
        return "no_answer", rule
    right = parse(f"\\boxed{{{gold}}}", [LatexExtractionConfig()], parsing_timeout=None)
    return "correct" if verify(right, stated, timeout_seconds=None) else "wrong", rule


def _limit_memory() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_BYTES if most == resource.RLIM_INFINITY else min(MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    main()
