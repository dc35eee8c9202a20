"""Time limits in a batch, by hand, with a clock that is moved, and processes that are pretended."""

import os
import time
from collections import Counter

import pytest

from fastrl.config.executor import ProgramConfig
from fastrl.grading import AnswerGrader, Verdict, pool
from fastrl.grading.programs import runner as programs
from fastrl.grading.programs.report import Ending
from fastrl.grading.programs.runner import Outcome, ProgramRunner, ProgramTests
from fastrl.grading.rounds import FIRST_SLICE_S, Rounds


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_where_all_could_take_their_limit_there_is_one_round(clock):
    assert Rounds(5.0, 60.0, 2, clock).next_limit_s(24) == 5.0
    assert Rounds(5.0, 60.0, 2, clock).next_limit_s(25) == FIRST_SLICE_S


def test_those_that_take_longer_share_the_budget(clock):
    rounds = Rounds(5.0, 60.0, 2, clock)
    assert rounds.next_limit_s(1000) == FIRST_SLICE_S
    clock.now += 125.0  # of the first round nothing is charged
    assert rounds.next_limit_s(40) == 60.0 * 2 / 40
    clock.now += 20.0  # most were done early: the others get more
    assert rounds.next_limit_s(10) == 5.0


def test_no_round_follows_that_would_give_nothing_new(clock):
    rounds = Rounds(5.0, 60.0, 2, clock)
    rounds.next_limit_s(1000)
    assert rounds.next_limit_s(1000) is None  # 0.12 s each

    rounds = Rounds(5.0, 60.0, 2, clock)
    rounds.next_limit_s(1000)
    assert rounds.next_limit_s(100) == 1.2
    clock.now += 60.0
    assert rounds.next_limit_s(100) is None


def test_a_single_task_has_its_limit_whatever_the_budget(clock):
    assert Rounds(600.0, 60.0, 2, clock).next_limit_s(2) == 600.0


def test_a_slice_is_no_longer_than_the_limit(clock):
    rounds = Rounds(0.1, 0.1, 1, clock)
    assert rounds.next_limit_s(50) == 0.1


class Pretended:
    """A process whose tasks hang where their text says so, each for as long as its limit."""

    alive, rule = True, "by hand"
    limits: Counter[float]

    def __init__(self, _):
        self.ready, self.told = os.pipe()
        self.replies, self.task, self.deadline = self, None, 0.0

    idle = property(lambda self: self.task is None)

    def fileno(self):
        return self.ready

    def send(self, task, given, limit_s):
        self.task, self.hangs = task, "hang" in str(given)
        self.limits[limit_s] += 1
        self.deadline = -1.0 if self.hangs else time.monotonic() + 600.0
        if not self.hangs:
            os.write(self.told, b"1")
        return True

    def done(self):
        os.read(self.ready, 1)
        self.task = None

    def kill(self):
        os.close(self.ready)
        os.close(self.told)


class PretendedGrader(Pretended):
    def receive(self):
        self.done()
        return Verdict.CORRECT

    def expire(self):
        self.task = None
        return Verdict.TIMEOUT


class PretendedProgram(Pretended):
    def send(self, task, given, limit_s):
        super().send(task, given, limit_s)
        os.write(self.told, b"1" if self.hangs else b"")
        return True

    def receive(self):
        self.done()
        limit = "time" if self.hangs else None
        return Ending("sc", 0, 0.0, limit, None, b"ok", b"")


def test_answers_that_hang_take_nothing_from_the_others(monkeypatch):
    monkeypatch.setattr(pool, "GradingProcess", PretendedGrader)
    monkeypatch.setattr(Pretended, "limits", limits := Counter(), raising=False)
    pairs = [(rf"\boxed{{\sqrt{{hang_{k}}}}}", "7") for k in range(100)] + [(r"\boxed{\sqrt{49}}", "7")]
    with AnswerGrader(num_workers=2, timeout_s=5.0, batch_s=20.0, unevaluated="paid") as grader:
        assert grader.grade(pairs) == [Verdict.TIMEOUT] * 100 + [Verdict.CORRECT]
        assert grader.explain(*pairs[0]).rule == "the time limit"  # alone it has all of it
        assert grader.counts == {Verdict.TIMEOUT: 100, Verdict.CORRECT: 1}
    first, shared, alone = sorted(limits)
    assert (first, limits[first], limits[shared], limits[alone]) == (FIRST_SLICE_S, 101, 100, 1)
    assert shared == pytest.approx(0.4, abs=0.1) and alone == 5.0


def test_programs_that_hang_take_nothing_from_the_others(monkeypatch):
    monkeypatch.setattr(programs, "ProgramProcess", PretendedProgram)
    monkeypatch.setattr(Pretended, "limits", limits := Counter(), raising=False)
    tests = ProgramTests(cases=(("", "ok"), ("1", "ok")))
    with ProgramRunner(ProgramConfig(num_workers=2, timeout_s=2.0, batch_s=2.0)) as runner:
        *hung, passed = runner.run([(f"hang {k}", tests) for k in range(50)] + [("print('ok')", tests)])
    assert Counter((each.outcome, each.passed, each.detail) for each in hung) == {
        (Outcome.TIMEOUT, 0, "time budget of the batch"): 50
    }
    assert (passed.outcome, passed.passed) == (Outcome.PASSED, 2)
    assert limits == {FIRST_SLICE_S: 102}
