"""The search for cheats finds a planted weakness, and none in the verifiers in the time it has here."""

import random

import pytest
from sandboxed import needs_sandbox

from bench import cheat
from bench.cheat import Earned, Field, Search, fields
from fastrl.config.executor import ProgramConfig
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.programs.runner import ProgramRunner


def test_a_planted_weakness_is_found_and_shortened():
    def judge(genomes):
        """Pays "or" behind "7", whatever else is said; is nearer with one of them."""
        found = []
        for genome in genomes:
            text = "".join(genome)
            near = ("7" in text) + ("or" in text)
            found.append(Earned(near, ("planted",) if "7or" in text else ()))
        return found

    search = Search(Field("planted", (*"abcdefgh", "7", "or", " "), judge), random.Random(0))
    for _ in range(10):
        search.round()
    assert search.cheats
    assert {search.shortest(genome) for genome in search.cheats} == {("7", "or")}


def test_an_answer_that_is_written_out_is_no_cheat():
    assert cheat.says(r"\boxed{6 \cdot 7 = 42}", "42") and cheat.says("42.", "42")
    assert not cheat.says(r"\boxed{420 + 142 + 4.2 + 42.5}", "42")
    assert cheat.filled(("@a", "+", "@b"), "1", "2") == r"\boxed{1+2}"


@needs_sandbox
@pytest.mark.process
def test_the_verifiers_pay_no_cheat_in_a_first_round(monkeypatch):
    monkeypatch.setattr(cheat, "POPULATION", 2)
    program = ProgramConfig(num_workers=1, timeout_s=2.0, memory_mib=160, max_processes=8, output_kib=64)
    with AnswerGrader(num_workers=1) as grader, ProgramRunner(program) as runner:
        for each in fields(grader, runner):
            search = Search(each, random.Random(1))
            search.round()
            assert search.tried and search.cheats == {}


def test_golds_and_kinds_are_fit_for_the_search():
    with AnswerGrader(level="lenient") as grader:
        grader._ask = lambda pairs: [(Verdict.WRONG, "by algebra")] * len(pairs)
        equal = grader.equal([(one, other) for one in cheat.GOLDS for other in cheat.GOLDS if one != other])
    assert set(equal) == {Verdict.WRONG}


@pytest.mark.parametrize("kind", list(cheat.RESTATED))
def test_no_problem_has_its_own_number_as_its_answer(kind):
    assert all(gold not in (a, b) for a, b, gold in cheat.RESTATED[kind])
