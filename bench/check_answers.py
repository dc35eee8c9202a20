"""`python -m bench.check_answers DIR`: every gold answer of the files against itself and another."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastrl.config import DataConfig
from fastrl.data import load_problems
from fastrl.grading.answer import normalize_answer
from fastrl.grading.pool import AnswerGrader
from fastrl.grading.verdict import Verdict

FILES = ("math500.parquet", "gsm8k_test.jsonl", "amc23.jsonl", "aime24.jsonl", "imo_answerbench_v2.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """How the gold answers of one file grade."""

    num_gold: int
    against_self: Counter[Verdict]
    against_other: Counter[Verdict]


def self_check(grader: AnswerGrader, gold: Sequence[str]) -> SelfCheck:
    """Each gold answer, boxed, graded against itself and as an answer to a problem with another one."""
    boxed = [f"\\boxed{{{answer}}}" for answer in gold]
    others = [_next_different(gold, index) for index in range(len(gold))]
    return SelfCheck(
        num_gold=len(gold),
        against_self=Counter(grader.grade(list(zip(boxed, gold, strict=True)))),
        against_other=Counter(grader.grade(list(zip(boxed, others, strict=True)))),
    )


def _next_different(gold: Sequence[str], index: int) -> str:
    # "x=5" and "5" are the same answer
    mine = _right_side(gold[index])
    following = (*gold[index + 1 :], *gold[:index])
    return next(answer for answer in following if _right_side(answer) != mine)


def _right_side(answer: str) -> str:
    return normalize_answer(answer).rpartition("=")[2].strip()


def main() -> None:
    folder = Path(sys.argv[1])
    with AnswerGrader() as grader:
        for name in FILES:
            start = time.monotonic()
            gold = [problem.solution for problem in load_problems(DataConfig(path=str(folder / name)))]
            check = self_check(grader, gold)
            bare = [normalize_answer(answer) for answer in gold]
            alone = Counter(grader.compare([(answer, answer) for answer in bare]))
            print(
                f"{name}: {check.num_gold} gold answers; against itself {_words(check.against_self)}; "
                f"against another {_words(check.against_other)}; "
                f"math-verify alone against itself {_words(alone)}; {time.monotonic() - start:.1f} s"
            )


def _words(counts: Counter[Verdict]) -> str:
    return ", ".join(f"{number} {verdict.value}" for verdict, number in counts.most_common())


if __name__ == "__main__":
    main()
