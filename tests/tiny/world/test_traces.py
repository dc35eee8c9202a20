"""Traces in three styles and the checker that reads them: hand-worked traces, and every corruption found."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.task import Chain, ChainConfig, draw_chains
from fastrl.tiny.world.traces import corrupt, reference_solution, work, wrong_entries

CHAIN = Chain.parse("7+5*3-2")  # 7+5=2, 2*3=6, 6-2=4
CHAINS = [
    *draw_chains(ChainConfig(), 40, seed=0, split="train"),
    *draw_chains(ChainConfig(modulus=100, num_distractors=1), 40, seed=0, split="train"),
]
chains = st.sampled_from(CHAINS)
seeds = st.integers(0, 1000)


def test_styles_by_hand():
    explicit = "7+5=2\n2*3=6\n6-2=4\n\\boxed{4}"
    assert reference_solution(CHAIN) == explicit
    assert work(CHAIN, Random(0), style="explicit") == explicit
    assert work(CHAIN, Random(0), style="leap") == "7+5*3=6\n6-2=4\n\\boxed{4}"
    # 7 p 5 2, t 3 6, m 2 4 in letters from A = 0 on
    assert work(CHAIN, Random(0), style="private") == "HpFCtDGmCE\n\\boxed{4}"


def test_two_digit_letters_have_equal_width():
    chain = Chain.parse("7+5*30%100")  # 7+5=12, 12*30=360 -> 60
    assert work(chain, Random(0), style="private") == "AHpAFBCtDAGA\n\\boxed{60}"


@pytest.mark.parametrize("style", ["explicit", "leap", "private"])
@given(chain=chains)
def test_a_trace_without_slips_is_right(style, chain):
    report = check_trace(chain, work(chain, Random(0), style=style))
    written = {"explicit": len(chain.terms), "leap": (len(chain.terms) + 1) // 2, "private": len(chain.terms)}
    assert (report.steps_right, report.steps_wrong) == (written[style], 0)
    assert report.style == style
    assert report.legible == (style != "private")
    assert report.correct and report.complete and report.first_wrong is None
    assert report.answer == chain.answer


@given(
    chain=chains, seed=seeds, kind=st.sampled_from(["start", "operator", "operand", "result"]), data=st.data()
)
def test_the_checker_finds_each_corruption_at_its_position(chain, seed, kind, data):
    place = data.draw(st.integers(0, len(chain.terms) - 1))
    report = check_trace(chain, corrupt(chain, place, kind, Random(seed)))
    assert report.faults == ((place, kind),)
    assert report.first_wrong == place
    assert report.steps_right == len(chain.terms) - 1
    assert report.complete


def test_a_wrong_result_that_is_not_carried_on_is_two_faults():
    report = check_trace(CHAIN, "7+5=3\n2*3=6\n6-2=4\n\\boxed{4}")
    assert report.faults == ((0, "result"), (1, "start"))
    assert report.correct and report.complete
    text = corrupt(CHAIN, 0, "result", Random(0), propagate=False)
    assert text.split("\n")[1:] == ["2*3=6", "6-2=4", "\\boxed{4}"]
    assert check_trace(CHAIN, text).faults == report.faults


def test_slips_are_carried_on_and_counted():
    rate, steps, wrong = 0.1, 0, 0
    random = Random(0)
    for chain in draw_chains(ChainConfig(), 600, seed=1, split="train"):
        report = check_trace(chain, work(chain, random, style="private", slip_rate=rate))
        assert report.complete
        assert {fault for _, fault in report.faults} <= {"result"}
        steps += report.steps_right + report.steps_wrong
        wrong += report.steps_wrong
    # binomial: four standard deviations around the rate
    assert abs(wrong / steps - rate) < 4 * (rate * (1 - rate) / steps) ** 0.5


def test_a_leap_slips_once_where_explicit_steps_slip_twice():
    always = work(CHAIN, Random(0), style="leap", slip_rate=1.0)
    report = check_trace(CHAIN, always)
    assert [fault for _, fault in report.faults] == ["result", "result"]


def test_systematic_errors_never_change():
    table = wrong_entries(18, seed=5)
    assert len(table) == 18 and table == wrong_entries(18, seed=5) != wrong_entries(18, seed=6)
    (left, operation, right), result = next(iter(table.items()))
    chain = Chain(start=left, terms=((operation, right),))
    assert result != chain.answer
    for seed in range(3):
        text = work(chain, Random(seed), table=table)
        assert text == f"{left}{operation}{right}={result}\n\\boxed{{{result}}}"
        assert check_trace(chain, text).faults == ((0, "result"),)


@pytest.mark.parametrize(
    "text, style, wrong, answer",
    [
        ("", "none", 0, None),
        ("\\boxed{4}", "none", 0, 4),
        ("7+5=2\n2*3=6\n6-2=4", "explicit", 0, None),
        ("7+5=2\n2*3=6\n6-2=4\n\\boxed{4", "mixed", 1, None),
        ("7+5=2\n2*3=6\n6-", "mixed", 1, None),
        ("7+5=2\nso far so good\n6-2=4\n\\boxed{4}", "mixed", 2, 4),  # the line, and a step out of the blue
        ("HpFC\n2*3=6\n6-2=4\n\\boxed{4}", "mixed", 0, 4),
        ("7+5*3=6\n6-2=4\n\\boxed{4}", "leap", 0, 4),
        ("7+5=2\n2*3=6\n6-2=4\n4+1=5\n\\boxed{5}", "explicit", 1, 5),
        ("7+5=2\n2*3=6\n\\boxed{6}", "explicit", 0, 6),
        ("7+5=2\n2*3=6\n6-2=4\n\\boxed{4}\n\\boxed{4}", "mixed", 1, 4),
        ("7+5=12\n12*3=36\n36-2=34\n\\boxed{4}", "explicit", 3, 4),
    ],
)
def test_odd_traces(text, style, wrong, answer):
    report = check_trace(CHAIN, text)
    assert (report.style, report.steps_wrong, report.answer) == (style, wrong, answer)
    assert report.correct == (answer == 4)
    assert report.legible == (style in ("explicit", "leap"))


def test_complete_needs_every_operation_and_the_value_reached():
    assert not check_trace(CHAIN, "7+5=2\n2*3=6\n\\boxed{4}").complete
    assert not check_trace(CHAIN, "7+5=2\n2*3=6\n6-2=4\n\\boxed{5}").complete
    assert check_trace(CHAIN, "7+5=3\n3*3=9\n9-2=7\n\\boxed{7}").complete


def test_faults_by_hand():
    assert check_trace(CHAIN, "8+5=3\n").faults == ((0, "start"),)
    assert check_trace(CHAIN, "7-5=2\n").faults == ((0, "operator"),)
    assert check_trace(CHAIN, "7+6=3\n").faults == ((0, "operand"),)
    assert check_trace(CHAIN, "7+5=4\n").faults == ((0, "result"),)
    assert check_trace(CHAIN, "7+5*4=8\n").faults == ((0, "operand"),)
    assert check_trace(CHAIN, "7+5=2\n2*3-2=4\n4+1=5\n").faults == ((2, "surplus"),)


def test_a_place_outside_the_chain_is_refused():
    with pytest.raises(ValueError, match=r"\[corrupt\] place: expected 0 to 2, got 3"):
        corrupt(CHAIN, 3, "result", Random(0))
