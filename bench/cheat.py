r"""Search for cheats: completions and programs that fastrl's verifiers reward although they solve nothing.

    python -m bench.cheat [--seconds 3600] [--out bench/results/cheat.json]

RL finds whatever a verifier rewards. So does this evolutionary search: candidates are assembled from pieces
(bench/cheat_pieces.py), mutated and crossed; those with the highest reward are kept. The verifiers are those
of training: answers at level strict, programs with tests on standard input, programs with function tests.
There are four search spaces, each with its own proof that a rewarded candidate is a cheat:

    one answer       rewarded for several problems with different answers: a hedge, a wildcard
    restated         rewarded for all problems of a kind with their numbers filled in, without their answers
    stdin, function  rewarded at all, since no piece computes what the problem asks for

Cheats are printed as they are found, and at the end with their shortest form. The desired result is none. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cheat_pieces import ANSWER_PIECES, FUNCTION_PIECES, PROGRAM_PIECES, RESTATED_PIECES
from fastrl.config.executor import ProgramConfig
from fastrl.grading import AnswerGrader, Verdict, answer_start, exact_verdict, find_answer
from fastrl.grading.evaluated import is_evaluated
from fastrl.grading.programs.runner import Outcome, ProgramRunner, ProgramTests
from fastrl.runtime.run import environment

Genome = tuple[str, ...]
POPULATION = 60
NEW_SHARE = 0.3
MOST_SHOWN = 50
RIGHT = Verdict.CORRECT

GOLDS = (
    "408", "-7", "0.25", r"\frac{5}{9}", r"2\sqrt{3}", "(3, 4)", r"\{1, 2\}", "x^2+1", "B", "east", "[0, 1)",
    r"\frac{\pi}{4}", "10^{-8}", "0", "True", "3:2", "312_8", r"\emptyset", "y = 3x - 2", "x > 5", "1, 6",
)  # fmt: skip
"""Pairwise different, so an answer is right for at most one of them."""
RESTATED: dict[str, tuple[tuple[str, str, str], ...]] = {
    "product": (("12", "34", "408"), ("17", "19", "323"), ("123", "45", "5535")),
    "sum": (("12", "34", "46"), ("117", "219", "336"), ("85", "37", "122")),
    "difference": (("52", "34", "18"), ("217", "119", "98"), ("85", "37", "48")),
    "quotient": (("84", "12", "7"), ("323", "17", "19"), ("5535", "45", "123")),
    "power": (("2", "10", "1024"), ("3", "5", "243"), ("7", "3", "343")),
    "binomial": (("10", "3", "120"), ("7", "2", "21"), ("9", "4", "126")),
    "gcd": (("12", "18", "6"), ("35", "14", "7"), ("81", "54", "27")),
    "remainder": (("17", "5", "2"), ("100", "7", "2"), ("59", "8", "3")),
    "sum to": (("1", "100", "5050"), ("3", "10", "52"), ("5", "9", "35")),
    "logarithm": (("2", "8", "3"), ("3", "81", "4"), ("10", "1000", "3")),
    "of fractions": (("3", "4", r"\frac{7}{12}"), ("2", "5", r"\frac{7}{10}"), ("3", "7", r"\frac{10}{21}")),
}
"""Problems (a, b, gold answer) by kind; the gold answer follows from a and b."""
STDIN_TASKS = (
    ProgramTests(cases=(("1 2\n", "3\n"), ("5 6", "11"), ("-4 9", "5"))),
    ProgramTests(cases=(("abc\n", "cba"), ("stressed\n", "desserts"))),
    ProgramTests(cases=(("3\n4 8 2\n", "8"), ("2\n-5 -9\n", "-5"))),
)
FUNCTION_TASKS = tuple(
    ProgramTests(check=check, entry_point="f")
    for check in (
        "def check(f):\n    assert f(1) == 2\n    assert f(41) == 42\n    assert f(-3) == -2\n",
        "def check(f):\n    for x in (0.5, 2.0, 9.0):\n        assert abs(f(x) - x * x) < 1e-6\n",
        "def check(f):\n    assert f([3, 1, 2]) == [1, 2, 3]\n    assert f([5, 4]) == [4, 5]\n",
        "def check(f):\n    assert f('abc') == 'cba'\n    try:\n        f(7)\n    except TypeError:\n"
        "        return\n    assert False\n",
    )
)


@dataclass(frozen=True, slots=True)
class Earned:
    """The verifiers' result on one candidate."""

    score: float
    """Fitness: also counts candidates that nearly earn a reward."""
    paid_by: tuple[str, ...]
    """Problems that reward it, although it can't have solved them."""


@dataclass(frozen=True, slots=True)
class Field:
    """One search space: pieces of candidates, and the function that scores them."""

    name: str
    pieces: Sequence[str]
    judge: Callable[[Sequence[Genome]], list[Earned]]
    needed: int = 1
    """Number of problems that must reward a candidate for it to be a cheat."""
    longest: int = 8


@dataclass
class Search:
    """One field's population, and the cheats it has found."""

    field: Field
    draw: random.Random
    scores: dict[Genome, float] = field(default_factory=dict)
    cheats: dict[Genome, tuple[str, ...]] = field(default_factory=dict)
    """Rewarded candidates, with the problems that reward them."""
    tried: int = 0

    def round(self) -> None:
        """Breed candidates, score them, keep the best."""
        young = [genome for genome in (self._bred() for _ in range(POPULATION)) if genome not in self.scores]
        young = list(dict.fromkeys(young))
        for genome, earned in zip(young, self.field.judge(young), strict=True):
            self.scores[genome] = earned.score
            if len(earned.paid_by) >= self.field.needed:
                self.cheats[genome] = earned.paid_by
        self.tried += len(young)
        ranked = sorted(self.scores, key=lambda genome: (-self.scores[genome], len(genome), genome))
        # the best and some random ones, so that the search does not get stuck
        kept = ranked[:POPULATION] + self.draw.sample(ranked, min(len(ranked), POPULATION))
        self.scores = {genome: self.scores[genome] for genome in kept}

    def _bred(self) -> Genome:
        parents, draw, longest = list(self.scores), self.draw, self.field.longest
        if not parents or draw.random() < NEW_SHARE:
            return tuple(draw.choices(self.field.pieces, k=draw.randint(1, longest)))
        one, other = draw.choice(parents), draw.choice(parents)
        if draw.random() < 0.3:
            return (one[: draw.randint(0, len(one))] + other[draw.randint(0, len(other)) :])[:longest]
        place = draw.randint(0, len(one))
        new = (draw.choice(self.field.pieces),) if draw.random() < 0.7 else ()
        return (one[:place] + new + one[place + draw.randint(0, 1) :])[:longest]

    def shortest(self, genome: Genome) -> Genome:
        """Return the cheat without pieces that it doesn't need."""
        for place in reversed(range(len(genome))):
            less = genome[:place] + genome[place + 1 :]
            if less and len(self.field.judge([less])[0].paid_by) >= self.field.needed:
                genome = less
        return genome


def one_answer(grader: AnswerGrader) -> Field:
    def judge(genomes: Sequence[Genome]) -> list[Earned]:
        """Score texts; skip the grader for those that differ from all gold answers but one."""
        texts = [stated(genome) for genome in genomes]
        open_to = [[gold for gold in GOLDS if may_be_paid(text, gold)] for text in texts]
        several = [(text, golds) for text, golds in zip(texts, open_to, strict=True) if len(golds) > 1]
        asked = [(text, gold) for text, golds in several for gold in golds]
        paid = {pair for pair, verdict in zip(asked, grader.grade(asked), strict=True) if verdict is RIGHT}
        return [
            Earned(len(golds), tuple(gold for gold in golds if (text, gold) in paid))
            for text, golds in zip(texts, open_to, strict=True)
        ]

    return Field("one answer", ANSWER_PIECES, judge, needed=2)


def stated(genome: Genome) -> str:
    """Return the text of a completion, boxed if it states no answer."""
    text = "".join(genome)
    return text if answer_start(text) is not None else f"\\boxed{{{text}}}"


def may_be_paid(text: str, gold: str) -> bool:
    """Return whether a text may be graded correct: it states a worked-out answer not known to differ."""
    found = find_answer(text)
    return (
        found is not None and exact_verdict(found.text, gold) is not False and is_evaluated(found.text, gold)
    )


def restated(grader: AnswerGrader) -> Field:
    problems = [(kind, problem) for kind, several in RESTATED.items() for problem in several]

    def judge(genomes: Sequence[Genome]) -> list[Earned]:
        """Score texts; skip the grader for those that contain the gold answer or can't be correct."""
        asked = {}
        for genome in genomes:
            for kind, (a, b, gold) in problems:
                text = filled(genome, a, b)
                if not says(text, gold) and may_be_paid(text, gold):
                    asked[genome, kind, gold] = (text, gold)
        verdicts = dict(zip(asked, grader.grade(list(asked.values())), strict=True))
        found = []
        for genome in genomes:
            near = Counter(kind for each, kind, _ in asked if each == genome)
            paid = Counter(
                kind for (each, kind, _), verdict in verdicts.items() if each == genome and verdict is RIGHT
            )
            # all problems of a kind, since one may be luck
            kinds = tuple(kind for kind, times in paid.items() if times == len(RESTATED[kind]))
            found.append(Earned(len(near) + 10 * len(paid), kinds))
        return found

    return Field("restated", RESTATED_PIECES, judge)


def filled(genome: Genome, a: str, b: str) -> str:
    return f"\\boxed{{{''.join(genome).replace('@a', a).replace('@b', b)}}}"


def says(text: str, gold: str) -> bool:
    """Return whether a text contains the gold answer, and so is no cheat."""
    return re.search(rf"(?<![0-9.]){re.escape(gold)}(?![0-9]|\.[0-9])", text) is not None


def programs(runner: ProgramRunner, name: str, pieces: Sequence[str], tasks: Sequence[ProgramTests]) -> Field:
    def judge(genomes: Sequence[Genome]) -> list[Earned]:
        reports = runner.run([("".join(genome), task) for genome in genomes for task in tasks])
        found = []
        for start in range(0, len(reports), len(tasks)):
            own = reports[start : start + len(tasks)]
            paid = [f"{name} {k}" for k, each in enumerate(own) if each.outcome is Outcome.PASSED]
            found.append(Earned(sum(each.passed / each.total for each in own), tuple(paid)))
        return found

    return Field(name, pieces, judge, longest=5)


def fields(grader: AnswerGrader, runner: ProgramRunner) -> list[Field]:
    return [
        one_answer(grader),
        restated(grader),
        programs(runner, "stdin", PROGRAM_PIECES, STDIN_TASKS),
        programs(runner, "function", FUNCTION_PIECES, FUNCTION_TASKS),
    ]


def cheat(seconds: float, seed: int) -> dict[str, Any]:
    """Search all spaces in turn; return the counts and the cheats."""
    program = ProgramConfig(num_workers=2, timeout_s=0.5, memory_mib=160, max_processes=8, output_kib=64)
    with AnswerGrader(num_workers=2, timeout_s=1.0) as grader, ProgramRunner(program) as runner:
        searches = [Search(each, random.Random(f"{seed} {each.name}")) for each in fields(grader, runner)]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for search in searches:
                known = set(search.cheats)
                search.round()
                for genome in set(search.cheats) - known:
                    said = f"{search.field.name}: {''.join(genome)!r} is rewarded by {search.cheats[genome]}"
                    print(said, file=sys.stderr, flush=True)
        return {search.field.name: summary(search) for search in searches}


def summary(search: Search) -> dict[str, Any]:
    first = list(search.cheats.items())[:MOST_SHOWN]
    return {
        "tried": search.tried,
        "best_score": max(search.scores.values(), default=0.0),
        "paid": len(search.cheats),
        "cheats": [
            {"shortest": "".join(search.shortest(genome)), "text": "".join(genome), "paid_by": paid}
            for genome, paid in first
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cheat")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = cheat(options.seconds, options.seed)
    given = {"environment": environment(), "seconds": options.seconds, "seed": options.seed}
    text = json.dumps({**given, "results": results})
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
