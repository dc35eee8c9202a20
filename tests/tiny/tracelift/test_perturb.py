"""Every kind of flaw: by hand, at the stated place, and as the step checker finds it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.tiny.tracelift.perturb import CODE, MATH, explicit_lines, perturb, places
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains

CHAIN = Chain.parse("7+5*3-2")  # 7+5=2, 2*3=6, 6-2=4
CHAINS = [
    *draw_chains(ChainConfig(), 40, seed=3, split="train"),
    *draw_chains(ChainConfig(modulus=100, num_distractors=1), 20, seed=3, split="train"),
    *draw_chains(ChainConfig(min_operations=1, distinct_operands=False), 60, seed=3, split="train"),
]
STAYS = {"no_conclusion": "7+5=2\n2*3=6", "left_out": "7+5=2\n2-2=0", "skipped_step": "7+5=2\n6-2=4"}


def made(kind, step, chain=CHAIN, seed=0):
    return perturb(chain, kind, step, Random(seed))


@pytest.mark.parametrize(
    "kind, step, text, place",
    [
        ("left_out", 1, "7+5=2\n2-2=0", (6, 6)),
        ("left_out", 0, "7*3=1\n1-2=9", (0, 0)),
        ("skipped_step", 1, "7+5=2\n6-2=4", (6, 6)),
        ("swapped_steps", 1, "7+5=2\n6-2=4\n2*3=6", (6, 17)),
        ("no_conclusion", 2, "7+5=2\n2*3=6", (11, 11)),
        ("no_conclusion", 1, "7+5=2", (5, 5)),
        ("private_tail", 1, "7+5=2\nCtDGmCE", (6, 13)),
        ("private_tail", 0, "HpFCtDGmCE", (0, 10)),
        ("vague_plan", 2, "7+5=2\n2*3=6\nand so on", (12, 21)),
        ("dumps_program", 3, "7+5=2\n2*3=6\n6-2=4\nprint(int(input())*4%10)", (18, 42)),
    ],
)
def test_by_hand(kind, step, text, place):
    flawed = made(kind, step)
    assert (flawed.text, flawed.place, flawed.kind, flawed.step) == (text, place, kind, step)


def test_changed_steps_by_hand():
    assert made("operator", 1).text in ("7+5=2\n2+3=5\n5-2=3", "7+5=2\n2-3=9\n9-2=7")
    assert made("operator", 1).place == (6, 11)
    start = made("misread_start", 0).text
    assert start[0] != "7" and start[1:4] == "+5="
    first, second, third = made("result_unused", 1).text.split("\n")
    assert (first, second[:4], third) == ("7+5=2", "2*3=", "6-2=4") and second[4] != "6"
    surplus = made("wrong_conclusion", 3).text.removeprefix("7+5=2\n2*3=6\n6-2=4\n")
    assert surplus[0] == "4" and surplus[-1] != "4" and len(surplus) == 5


def expected_faults(flawed, chain):
    """What check_trace must say: the faults, or where the first one is (an int)."""
    k, count = flawed.step, len(chain.terms)
    return {
        "misread_start": ((k, "start"),),
        "start": ((k, "start"),),
        "operand": ((k, "operand"),),
        "operator": ((k, "operator"),),
        "result": ((k, "result"),),
        "result_unused": ((k, "result"), (k + 1, "start")),
        "left_out": k,
        "skipped_step": k,
        "swapped_steps": k,
        "no_conclusion": (),
        "wrong_conclusion": ((count, "surplus"),),
        "private_tail": (),
        "vague_plan": ((k, "unreadable"),),
        "dumps_program": ((count, "unreadable"),),
    }[flawed.kind]


@pytest.mark.parametrize("kind", CODE)
@given(chain=st.sampled_from(CHAINS), seed=st.integers(0, 1000), data=st.data())
def test_the_checker_agrees(kind, chain, seed, data):
    possible = places(chain, kind)
    if not possible:
        return
    flawed = made(kind, data.draw(st.sampled_from(possible)), chain, seed)
    report = check_trace(chain, flawed.text)
    expected = expected_faults(flawed, chain)
    if isinstance(expected, int):
        assert report.first_wrong == expected
        assert report.faults[0][1] in ("start", "operator", "operand")
    else:
        assert report.faults == expected
    steps = report.steps_right + report.steps_wrong
    shorter = {"left_out": 1, "skipped_step": 1, "no_conclusion": len(chain.terms) - flawed.step}
    if kind in ("wrong_conclusion", "dumps_program"):
        assert steps == len(chain.terms) + 1
    elif kind != "vague_plan":
        assert steps == len(chain.terms) - shorter.get(kind, 0)
    assert report.legible == (kind not in ("private_tail", "vague_plan", "dumps_program"))


@pytest.mark.parametrize("kind", CODE)
@given(chain=st.sampled_from(CHAINS), seed=st.integers(0, 1000), data=st.data())
def test_the_flaw_lies_within_its_place(kind, chain, seed, data):
    """Before it everything is right; what is outside it is right too, where nothing is worked on from it."""
    possible = places(chain, kind)
    if not possible:
        return
    flawed = made(kind, data.draw(st.sampled_from(possible)), chain, seed)
    right = "\n".join(explicit_lines(chain))
    start, end = flawed.place
    assert flawed.text != right and 0 <= start <= end <= len(flawed.text)
    assert right.startswith(flawed.text[:start].rstrip("\n"))
    assert flawed.text[:start].count("\n") == flawed.step or start == len(flawed.text)
    if kind in ("skipped_step", "swapped_steps", "result_unused"):
        assert right.endswith(flawed.text[end:])
    if kind in ("no_conclusion", "private_tail", "vague_plan", "wrong_conclusion", "dumps_program"):
        assert end == len(flawed.text)
    assert (start == end) == (kind in STAYS)


def test_a_flaw_that_would_not_show_is_not_offered():
    twice = Chain.parse("7+5+5-2")
    assert places(twice, "skipped_step") == places(twice, "left_out") == [1]
    single = Chain.parse("7+5")
    offered = {kind for kind in CODE if places(single, kind)}
    assert offered == {
        "misread_start", "operand", "operator", "result", "wrong_conclusion", "private_tail", "vague_plan",
        "dumps_program",
    }  # fmt: skip
    assert set(MATH) == set(CODE) - {"vague_plan", "dumps_program"}


@pytest.mark.parametrize("kind, step", [("start", 0), ("result_unused", 2), ("operand", 3)])
def test_a_step_where_it_can_not_stand_is_refused(kind, step):
    with pytest.raises(ValueError, match=rf"\[perturb\] step: expected one of .* for {kind}, got {step}"):
        made(kind, step)
