"""Compare graders on tests/grading/pairs.jsonl: false positives, false negatives, speed.

    python -m bench.study_grader [--out bench/results/grader_study.json]

The file has 300 pairs of gold answer and completion, half of them right. Graders: fastrl at each level,
math-verify on the whole completion, lm-eval's tasks aime and gsm8k (flexible-extract), TRL's accuracy_reward.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastrl.grading import AnswerGrader, Verdict
from fastrl.runtime.run import environment

PAIRS = Path(__file__).resolve().parents[1] / "tests" / "grading" / "pairs.jsonl"
Pair = dict[str, Any]
Grade = Callable[[Sequence[Pair]], list[bool]]


def read_pairs(path: Path = PAIRS) -> list[Pair]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def levels() -> list[str]:
    """Return the levels of this checkout's grader; [""] if it has none."""
    return ["strict", "lenient"] if "level" in inspect.signature(AnswerGrader).parameters else [""]


def fastrl_grade(level: str) -> Grade:
    def grade(pairs: Sequence[Pair]) -> list[bool]:
        options: dict[str, Any] = {"level": level} if level else {}
        with AnswerGrader(num_workers=2, timeout_s=10.0, **options) as grader:
            verdicts = grader.grade([(pair["completion"], pair["gold"]) for pair in pairs])
        return [verdict is Verdict.CORRECT for verdict in verdicts]

    return grade


def math_verify_grade(pairs: Sequence[Pair]) -> list[bool]:
    """Grade with math-verify's defaults; the gold answer is boxed, as its documentation asks."""
    from math_verify import parse, verify

    def right(pair: Pair) -> bool:
        gold = parse(f"\\boxed{{{pair['gold']}}}", parsing_timeout=None)
        return bool(verify(gold, parse(pair["completion"], parsing_timeout=None), timeout_seconds=None))

    return [right(pair) for pair in pairs]


def lm_eval_aime(pairs: Sequence[Pair]) -> list[bool]:
    from lm_eval.tasks.aime.utils import process_results

    return [
        bool(process_results({"answer": pair["gold"]}, [pair["completion"]])["exact_match"]) for pair in pairs
    ]


def lm_eval_gsm8k(pairs: Sequence[Pair]) -> list[bool]:
    """Grade like task gsm8k: take the last number (flexible-extract), drop ignored characters, compare."""
    ignored = re.compile(r",|\$|(?s:.*)#### |\.$")

    def right(pair: Pair) -> bool:
        found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", pair["completion"])
        stated = next((text for text in found[-1] if text), "") if found else "[invalid]"
        return ignored.sub("", stated).lower() == ignored.sub("", pair["gold"]).lower()

    return [right(pair) for pair in pairs]


def trl_accuracy(pairs: Sequence[Pair]) -> list[bool]:
    """Grade with TRL's reward; None for an unparseable gold answer counts as wrong."""
    from trl.rewards import accuracy_reward

    completions = [[{"role": "assistant", "content": pair["completion"]}] for pair in pairs]
    golds = [f"\\boxed{{{pair['gold']}}}" for pair in pairs]
    return [bool(reward) for reward in accuracy_reward(completions, golds)]


def graders() -> dict[str, Grade]:
    return {
        **{f"fastrl {level}".strip(): fastrl_grade(level) for level in levels()},
        "math-verify alone": math_verify_grade,
        "lm-eval aime": lm_eval_aime,
        "lm-eval gsm8k flexible": lm_eval_gsm8k,
        "TRL accuracy_reward": trl_accuracy,
    }


def judge(grade: Grade, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the errors of one grader: counts by kind, and the pairs."""
    given = grade(pairs)
    false_positive = [pair for pair, paid in zip(pairs, given, strict=True) if paid and not pair["right"]]
    false_negative = [pair for pair, paid in zip(pairs, given, strict=True) if not paid and pair["right"]]
    return {
        "false_positives": len(false_positive),
        "false_negatives": len(false_negative),
        "by_kind": {
            name: dict(Counter(pair["kind"] for pair in errors))
            for name, errors in (("false_positives", false_positive), ("false_negatives", false_negative))
        },
        "errors": [
            {name: pair[name] for name in ("gold", "completion", "right")}
            for pair in (*false_positive, *false_negative)
        ],
    }


def speed(pairs: Sequence[Pair], rounds: int = 3) -> dict[str, float]:
    """Return completions per second of the default grader with two warm processes.

    "pairs" are all different; "integers" are compared without the processes.
    """
    integers = [(f"so \\boxed{{{n}}}", str(n + n % 2)) for n in range(20_000)]
    texts = [(pair["completion"], pair["gold"]) for pair in pairs]
    found = {}
    with AnswerGrader(num_workers=2, timeout_s=10.0) as grader:
        grader.grade(texts)
        for name, work in (("pairs", texts), ("integers", integers)):
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                grader.grade(work)
                seconds.append(time.perf_counter() - start)
            found[name] = round(len(work) / min(seconds), 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.study_grader")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    logging.disable(logging.WARNING)
    pairs = read_pairs()
    results = {}
    for name, grade in graders().items():
        results[name] = judge(grade, pairs)
        print(f"{name}: {results[name]['false_positives']} false positives, "
              f"{results[name]['false_negatives']} false negatives in {len(pairs)} pairs")  # fmt: skip
    text = json.dumps(
        {
            "environment": environment(),
            "pairs": len(pairs),
            "answers_per_second": speed(pairs),
            "results": results,
        },
        ensure_ascii=False,
    )
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
