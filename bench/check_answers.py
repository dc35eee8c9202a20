"""Grade every gold answer of the benchmark files against itself and against another one, at both levels.

    python -m bench.check_answers DIR [--out bench/results/grader_gold.json]

"Another" is the file's next gold answer with a different text after the last "=". Pairs on which math-verify
disagrees are listed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.config import DataConfig
from fastrl.data import load_problems
from fastrl.grading import AnswerGrader, Verdict, normalize_answer
from fastrl.grading.levels import LEVELS
from fastrl.runtime.run import environment

FILES = (
    "math500.parquet", "gsm8k_test.jsonl", "gsm8k_train.jsonl", "amc23.jsonl", "aime24.jsonl",
    "imo_answerbench_v2.csv", "sky_math_8.parquet", "sky_math_64.parquet",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """Verdicts on the gold answers of one file."""

    num_gold: int
    against_self: Counter[Verdict]
    against_other: Counter[Verdict]


def self_check(grader: AnswerGrader, gold: Sequence[str]) -> SelfCheck:
    """Grade each boxed gold answer against itself and against another gold answer."""
    pairs = boxed_pairs(gold)
    return SelfCheck(
        num_gold=len(gold),
        against_self=Counter(grader.grade(pairs[: len(gold)])),
        against_other=Counter(grader.grade(pairs[len(gold) :])),
    )


def boxed_pairs(gold: Sequence[str]) -> list[tuple[str, str]]:
    """Return each boxed gold answer with itself, then each with another."""
    boxed = [f"\\boxed{{{answer}}}" for answer in gold]
    others = [_next_different(gold, index) for index in range(len(gold))]
    return [*zip(boxed, gold, strict=True), *zip(boxed, others, strict=True)]


def math_verify_verdicts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Grade the same pairs with math-verify's defaults, the gold answer boxed."""
    from math_verify import parse, verify

    return [bool(verify(parse(f"\\boxed{{{gold}}}"), parse(completion))) for completion, gold in pairs]


def _next_different(gold: Sequence[str], index: int) -> str:
    # "x=5" and "5" are the same answer
    mine = _right_side(gold[index])
    following = (*gold[index + 1 :], *gold[:index])
    return next(answer for answer in following if _right_side(answer) != mine)


def _right_side(answer: str) -> str:
    return normalize_answer(answer).rpartition("=")[2].strip()


def check_file(path: Path) -> dict[str, Any]:
    gold = [problem.solution for problem in load_problems(DataConfig(path=str(path)))]
    pairs, found = boxed_pairs(gold), dict[str, Any](num_gold=len(gold))
    theirs = math_verify_verdicts(pairs) if len(gold) <= 2000 else None
    for level in LEVELS:
        with AnswerGrader(level=level) as grader:  # type: ignore[arg-type]
            grader.equal([(r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}")])
            start = time.perf_counter()
            verdicts = grader.grade(pairs)
            seconds = time.perf_counter() - start
            found[level] = {
                "against_self": _words(verdicts[: len(gold)]),
                "against_other": _words(verdicts[len(gold) :]),
                "seconds": round(seconds, 3),
                "by_algebra": grader.num_compared - 1,
            }
            if theirs is not None:
                found[level]["differs_from_math_verify"] = [
                    {
                        "answer": completion,
                        "gold": right,
                        "fastrl": verdict.value,
                        "rule": _rule(grader, completion, right),
                    }
                    for (completion, right), verdict, other in zip(pairs, verdicts, theirs, strict=True)
                    if (verdict is Verdict.CORRECT) != other
                ]
    return found


def _rule(grader: AnswerGrader, completion: str, gold: str) -> str:
    return grader.explain(completion, gold).rule


def _words(verdicts: Sequence[Verdict]) -> dict[str, int]:
    return {verdict.value: number for verdict, number in Counter(verdicts).most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.check_answers")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    for name in FILES:
        results[name] = check_file(options.folder / name)
        for level in LEVELS:
            row = results[name][level]
            print(
                f"{name}, {level}: itself {row['against_self']}, another {row['against_other']}, "
                f"{row['seconds']} s"
            )
    text = json.dumps({"environment": environment(), "results": results}, ensure_ascii=False)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
