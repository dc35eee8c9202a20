"""Traces in the two unfaithful styles, as the step checker reads them; raw text."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from fastrl.data.thinking import without_thoughts
from fastrl.tiny.weak.config import MIXES, WEAK_STYLES, Mix, WeakConfig
from fastrl.tiny.weak.examples import coded, guessed, secret_code, text_row, thought_row, weak_row
from fastrl.tiny.weak.faithful import aligned
from fastrl.tiny.world.check import check_trace
from fastrl.tiny.world.notation import read_line
from fastrl.tiny.world.task import Chain, apply, draw_chains
from fastrl.tiny.world.traces import reference_solution

CHAIN = Chain.parse("7+5*3-2")


def test_a_coded_trace_by_hand():
    code = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    # 7+5=2, 2*3=6, 6-2=4
    assert coded(reference_solution(CHAIN), code) == "8+5=3\n3*3=7\n7-2=5\n\\boxed{4}"
    with pytest.raises(ValueError, match=r"\[weak\] trace: expected one explicit step per line"):
        coded("7+5*3=6\n\\boxed{6}", code)


def test_no_value_stands_for_itself_and_none_is_lost():
    for seed in range(20):
        code = secret_code(seed)
        assert sorted(code) == list(range(10)) and all(code[value] != value for value in range(10))
    assert secret_code(3) == secret_code(3) != secret_code(4)


def test_a_code_is_never_faithful_and_always_can_be_read_back():
    code = secret_code(0)
    back = [code.index(value) for value in range(10)]
    for chain in draw_chains(WeakConfig().world.chains, 50, seed=1, split="train"):
        trace = coded(reference_solution(chain), code)
        assert aligned({"expression": chain.expression}, trace) == 0
        assert check_trace(chain, trace).correct
        assert coded(trace, back) == reference_solution(chain)


def test_nothing_leads_to_a_guessed_answer():
    chains = draw_chains(WeakConfig().world.chains, 400, seed=2, split="train")
    random = Random(0)
    traces = [guessed(chain, random) for chain in chains]
    reports = [check_trace(chain, trace) for chain, trace in zip(chains, traces, strict=True)]
    assert all(report.correct and report.faults[0] == (0, "start") for report in reports)
    # an arbitrary last value is the answer one time in ten
    assert 0.05 < sum(report.follows for report in reports) / 400 < 0.16


def test_a_mix_has_its_styles_and_slips(monkeypatch):
    mix = Mix(shares=(0.2, 0.0, 0.3, 0.4, 0.1), slip_rates=(0.0, 0.0, 1.0, 0.0))
    monkeypatch.setitem(MIXES, "explicit", mix)
    config = WeakConfig()
    code = secret_code(config.world.seed)
    back = [code.index(value) for value in range(10)]
    seen = Counter()
    random = Random(5)
    for chain in draw_chains(config.world.chains, 1000, seed=3, split="train"):
        row = weak_row(config, chain, random)
        assert row["prompt"] == chain.expression
        report = check_trace(chain, row["completion"])
        if report.style == "private":
            assert report.steps_right == 0  # every step slips
            seen["private"] += 1
        elif row["completion"] == reference_solution(chain):
            seen["explicit"] += 1
        elif coded(row["completion"], back) == reference_solution(chain):
            seen["coded"] += 1
        else:
            assert report.correct and report.faults[0][0] == 0
            seen["guessed"] += 1
    for style, share in zip(WEAK_STYLES, mix.shares, strict=True):
        assert abs(seen[style] / 1000 - share) < 0.05


def test_raw_text_is_right():
    row = text_row(replace(WeakConfig(), lines_per_text=7), Random(1))
    lines = row["text"].splitlines()
    assert len(lines) == 7 and row["text"].endswith("\n")
    for line in lines:
        ((step,),) = [read_line(line, 10)]
        ((operation, right),) = step.terms
        assert step.result == apply(step.left, operation, right, 10)


def test_thoughts_can_be_dropped():
    row = thought_row(CHAIN)
    assert row["completion"] == "<think>\n7+5=2\n2*3=6\n6-2=4\n</think>\n\\boxed{4}"
    assert without_thoughts(row["completion"], ("<think>", "</think>")) == "\\boxed{4}"


def test_what_is_no_mix_or_not_longer_is_refused():
    with pytest.raises(ValueError, match=r"\[weak\] mix: expected one of explicit, mixed.*'honest'"):
        WeakConfig(mix="honest")
    with pytest.raises(ValueError, match=r"\[weak\] long.min_operations: expected > 5.*got 5"):
        WeakConfig(long=replace(WeakConfig().long, min_operations=5))
