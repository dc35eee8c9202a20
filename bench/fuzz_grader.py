r"""Fuzz the grader with generated answers: no crash, no hang, flat memory, reflexive and symmetric verdicts.

    python -m bench.fuzz_grader [--answers 200000] [--out bench/results/grader_fuzz.json]

Answers are LaTeX built by a grammar, edited copies, random characters and deep nesting. Each is compared with
itself and with its predecessor in both orders, and extracted from a text around it. One in --algebra-every
batches goes to the worker processes; the others are compared without algebra. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrl.grading import AnswerGrader, Verdict, answer_start, exact_verdict, find_answer
from fastrl.grading.levels import LEVELS
from fastrl.runtime.run import environment

LEAVES = (
    "0", "1", "-2", "7", "12", "1,000", "0.5", "3.14", ".25", "1e-9", "10^{-34}", "x", "y", "n", "a_1",
    "\\pi", "e", "i", "\\infty", "\u03c0", "\u00bd", "\uff13", "\u0664", "\u2212", "\\emptyset", "A", "B",
    "C", "yes", "no solution", "\\text{east}", "ABC", "50\\%", "\\$5", "5 cm", "60^\\circ", "2:30",
    "312_8", "0.\\overline{3}", "2\\frac12", "\\mathbb{R}", "", " ", "\\alpha",
)  # fmt: skip
FORMS = (
    "{0}+{1}", "{0}-{1}", "{0}{1}", "{0}/{1}", "{0},{1}", "{0}, {1}", "{0} or {1}",
    "{0} \\text{{ and }} {1}", "{0}={1}", "x={0}, y={1}", "{0}<{1}", "{0} \\le x < {1}", "({0},{1})",
    "[{0},{1})", "\\{{{0},{1}\\}}", "\\frac{{{0}}}{{{1}}}", "\\frac{0}{1}", "\\sqrt{{{0}}}", "\\sqrt {0}",
    "{0}^{{{1}}}", "{0}^{1}", "\\pm {0}", "{0} \\pm {1}", "\\boxed{{{0}}}", "\\text{{{0}}}",
    "\\left({0}\\right)", "\\begin{{pmatrix}}{0}\\\\{1}\\end{{pmatrix}}", "({0},{1}) \\cup ({1},{0})",
    "{0} \\text{{ cm}}", "{0}\\%", "|{0}|", "\\binom{{{0}}}{{{1}}}", "\\log_{{{0}}} {1}", "\\sin({0})",
    "{0}!", "{0}:{1}", "\\{{x \\mid x>{0}\\}}", "{0}_{{{1}}}", "${0}$", "({0}) {1}", "{0}. {1}",
    "{0} \\pmod{{{1}}}", "\\langle {0},{1} \\rangle",
)  # fmt: skip
AROUND = (
    "\\boxed{{{0}}}", "The answer is {0}.", "Answer: {0}", "#### {0}", "<answer>{0}</answer>",
    "<think>{0}</think>{0}", "so ${0}$", "\\boxed {0}", "\\boxed{{{0}", "{0}",
    "\\boxed{{{0}}}, \\boxed{{{0}}}", "**Final answer**\n\n\\[{0}\\]",
)  # fmt: skip


def answer(draw: random.Random, depth: int = 3) -> str:
    """Return a generated answer."""
    kind = draw.random()
    if depth == 3 and kind < 0.05:
        codes = [draw.choice((draw.randrange(32, 127), draw.randrange(1, 0xD800))) for _ in range(60)]
        return "".join(map(chr, codes[: draw.randrange(60)]))
    if depth == 3 and kind < 0.08:
        piece = draw.choice(
            ("{", "(", "\\{", "[", "\\frac{", "\\sqrt{", "\\left(", "-", "\\boxed{", "^{", "((,", "\\pm")
        )
        return piece * draw.randrange(1, 300) + draw.choice(LEAVES)
    if depth == 0 or kind < 0.3:
        return draw.choice(LEAVES)
    form = draw.choice(FORMS)
    return form.format(answer(draw, depth - 1), answer(draw, depth - 1))


def changed(text: str, draw: random.Random) -> str:
    """Return a text with one character inserted, deleted or replaced."""
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(("", "0", "-", ",", "}", " ")) + text[place + draw.randrange(2) :]


def answers(number: int, seed: int) -> list[str]:
    draw, found = random.Random(seed), [""]
    for _ in range(number):
        copy = found[-1] and draw.random() < 0.3
        found.append(changed(found[-1], draw) if copy else answer(draw))
    return found[1:]


def fuzz(grader: AnswerGrader, given: Sequence[str], seed: int) -> dict[str, Any]:
    """Grade one batch: extract the answers from texts, then compare them with each other."""
    draw = random.Random(seed)
    grader.grade([(draw.choice(AROUND).format(text), text) for text in given])
    others = [given[-1], *given[:-1]]
    same = grader.equal([(text, text) for text in given])
    there = grader.equal(list(zip(given, others, strict=True)))
    back = grader.equal(list(zip(others, given, strict=True)))
    stopped = (Verdict.TIMEOUT, Verdict.ERROR)
    return {
        "not_reflexive": [
            text for text, verdict in zip(given, same, strict=True) if verdict is not Verdict.CORRECT
        ],
        "not_symmetric": [
            pair
            for pair, one, other in zip(zip(given, others, strict=True), there, back, strict=True)
            if one is not other and one not in stopped and other not in stopped
            and Verdict.CORRECT in (one, other)
        ],
        "died": [
            pair
            for pair, verdict in zip(zip(given, others, strict=True), there, strict=True)
            if verdict is Verdict.ERROR
        ],
        "verdicts": Counter(verdict.value for verdict in (*there, *back)),
    }  # fmt: skip


def fuzz_exactly(given: Sequence[str], seed: int) -> dict[str, Any]:
    """Do the same for one batch without algebra, in this process."""
    draw, others = random.Random(seed), [given[-1], *given[:-1]]
    found: dict[str, Any] = {"not_reflexive": [], "not_symmetric": [], "verdicts": Counter()}
    for text, other in zip(given, others, strict=True):
        around = draw.choice(AROUND).format(text)
        answer_start(around)
        for level in LEVELS:
            find_answer(around, "last_number", level)  # type: ignore[arg-type]
        there, back = exact_verdict(text, other), exact_verdict(other, text)
        found["not_reflexive"] += [] if exact_verdict(text, text) else [text]
        found["not_symmetric"] += [] if there is back else [(text, other)]
        found["verdicts"][f"exactly: {there}"] += 1
    return found


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz_grader")
    parser.add_argument("--answers", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument(
        "--algebra-every", type=int, default=10, help="send one in so many batches to workers"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    total: dict[str, Any] = {"not_reflexive": [], "not_symmetric": [], "died": [], "verdicts": Counter()}
    memory, slowest, begun = [], 0.0, time.perf_counter()
    with AnswerGrader(num_workers=2, timeout_s=options.timeout_s) as grader:
        for number in range(0, options.answers, options.batch):
            start = time.perf_counter()
            seed = options.seed * 1_000_003 + number
            given = answers(options.batch, seed)
            with_algebra = number // options.batch % options.algebra_every == 0
            graded = fuzz(grader, given, seed) if with_algebra else fuzz_exactly(given, seed)
            for name, found in graded.items():
                total[name] += found
            print(f"{number + options.batch} answers, {memory_mib():.0f} MiB", file=sys.stderr, flush=True)
            slowest = max(slowest, time.perf_counter() - start)
            memory.append(round(memory_mib(), 1))
        by_algebra = grader.num_compared
    results = {
        **total,
        "answers": options.answers,
        "by_algebra": by_algebra,
        "seconds": round(time.perf_counter() - begun, 1),
        "slowest_batch_s": round(slowest, 1),
        "memory_mib": {"after_a_tenth": memory[len(memory) // 10], "at_the_end": memory[-1]},
    }
    text = json.dumps({"environment": environment(), "seed": options.seed, "results": results})
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
