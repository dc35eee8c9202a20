"""Candidates: outcomes by hand, the new attempt, and the funnel's counts."""

import pytest

from fastrl.config import InterveneConfig
from fastrl.methods.interventions.candidates import (
    Arms,
    Candidate,
    apply_filter,
    candidates_of,
    keep_first,
    measure,
    select_one,
)
from fastrl.methods.interventions.funnel import funnel
from fastrl.methods.interventions.problems import HardProblem
from fastrl.methods.interventions.propose import Check
from fastrl.methods.interventions.segment import segment
from fastrl.stages.intervene import sft_row
from fastrl.types import Completion

ATTEMPT = "First, n = 2.\n\nThen n + 1 = 4.\n\nSo 4 - 1 = 2.\n\nThe answer is \\boxed{2}."
PROBLEM = HardProblem(
    index=5,
    messages=[{"role": "user", "content": "How many?"}],
    question="How many?",
    solution="12",
    reference="n = 2",
    attempts=[segment("other"), segment(ATTEMPT, min_chars=1)],
)


def check_of(*texts, reasons=None):
    completions = [
        Completion(token_ids=[1], logprobs=[0.0], finish_reason=reason, text=text)
        for text, reason in zip(texts, reasons or ["stop"] * len(texts), strict=True)
    ]
    return Check(problem=PROBLEM, attempt=1, completions=completions, solution_was_cut=False)


def says(location, content):
    content = content.replace("\n", "\\n")
    return f'<intervention>{{"content": "{content}", "location": {location}}}</intervention>'


def candidate(outcome="open", success=None, original=None, prefix=None, **options):
    return Candidate(
        problem=0, attempt=0, sample=0, outcome=outcome, success=success, success_original=original,
        success_prefix=prefix, check="", **options,
    )  # fmt: skip


def test_reading_the_proposals_of_an_attempt():
    read = candidates_of(
        check_of(
            says(2, "Then n + 1\n= 3."),
            says(2, "Then  n + 1 = 3."),  # the same but for spaces
            says(3, "Then n + 1 = 3."),  # elsewhere
            says(2, "Hence 12 in all."),
            says(2, "Hence 312 in all."),
            says(2, "Then n + 1 =  4."),
            says(5, "x"),
            says(2, "late"),
            "nothing",
            reasons=["stop"] * 7 + ["length", "stop"],
        )
    )
    assert [each.outcome for each in read] == [
        "open", "duplicate", "open", "leak", "open", "unchanged", "out_of_range", "unfinished", "no_tag"
    ]  # fmt: skip
    assert [each.sample for each in read] == list(range(9))
    assert {(each.problem, each.attempt) for each in read} == {(5, 1)}
    assert read[0].location == 2
    assert read[0].content == "Then n + 1\n\n= 3."  # blank lines, as between the rollout's steps
    assert read[8].location is None and read[8].check == "nothing"
    keep_first(read)
    assert [each.outcome for each in read][:5] == ["open", "duplicate", "not_first", "leak", "not_first"]


def test_leaks_anywhere_or_where_answers_are_stated():
    check = check_of(says(2, "Then 6 + 6 = 12."), says(2, "The answer is 12."), says(2, "So 7."))
    assert [each.outcome for each in candidates_of(check)] == ["leak", "leak", "open"]
    assert [each.outcome for each in candidates_of(check, "stated")] == ["open", "leak", "open"]


def test_an_attempt_that_was_not_checked_has_no_candidates():
    check = Check(problem=PROBLEM, attempt=1, completions=None, solution_was_cut=False)
    assert candidates_of(check) == []


@pytest.mark.parametrize("location", [1, 2, 4])
def test_the_new_attempt_ends_before_the_wrong_step(location):
    steps = PROBLEM.attempts[1]
    new = candidate("selected", 0.5, 0.25, location=location, content="Now n = 3.")
    arms = Arms.of(steps, new)
    before = "\n\n".join(ATTEMPT.split("\n\n")[: location - 1])
    gap = "\n\n" if before else ""
    assert arms.prefix == before
    assert arms.original == before + gap + ATTEMPT.split("\n\n")[location - 1]
    assert arms.intervention == before + gap + "Now n = 3."
    for wrong in range(location - 1, len(steps)):
        assert steps[wrong] not in arms.intervention
    new.attempt = 1
    row = sft_row(PROBLEM, new)
    assert row["prefix"] + row["completion"] == arms.intervention
    assert (row["prompt"], row["gain"], row["location"]) == (PROBLEM.messages, 0.25, location)


def test_the_filter_asks_for_no_more_than_it_needs():
    arms = Arms("new", "old", "before")
    asked = {name: arms.needed(config(name)) for name in ("none", "success", "gain")}
    assert asked == {"none": [], "success": ["new"], "gain": ["new", "old", "before"]}
    each = candidate()
    measure(each, arms, 3, {(3, "new"): 0.5, (3, "old"): 0.125, (2, "before"): 1.0})
    assert (each.success, each.success_original, each.success_prefix) == (0.5, 0.125, None)
    assert each.gain == 0.375


def config(name, select="first"):
    return InterveneConfig(filter=name, select=select)


@pytest.mark.parametrize(
    "success, original, by_success, by_gain",
    [
        (0.0, 0.0, "no_success", "no_success"),
        (0.25, 0.0, "survived", "survived"),
        (0.25, 0.25, "survived", "no_gain"),
        (0.25, 0.5, "survived", "no_gain"),
        (1.0, 0.96875, "survived", "survived"),
        (0.5, None, "survived", "no_room"),
        (None, 0.5, "no_room", "no_room"),
    ],
)
def test_filters_by_hand(success, original, by_success, by_gain):
    for name, outcome in (("none", "survived"), ("success", by_success), ("gain", by_gain)):
        each = candidate("open", success, original)
        apply_filter(each, config(name))
        assert each.outcome == outcome
    closed = candidate("leak", 1.0, 0.0)
    apply_filter(closed, config("gain"))
    assert closed.outcome == "leak"


# success, original: gains are 0.25, 0.5, 0.5, 0.125
RATES = [(0.75, 0.5), (0.625, 0.125), (0.5, 0.0), (0.875, 0.75)]


@pytest.mark.parametrize(("name", "best"), [("gain", 1), ("success", 3)])
def test_the_best_by_hand(name, best):
    own = [candidate("survived", *rates) for rates in RATES]
    own.insert(0, candidate("no_gain", 1.0, 1.0))
    select_one(own, config(name, "best"))
    assert [each.outcome for each in own[1:]] == [
        "selected" if index == best else "not_best" for index in range(4)
    ]
    assert own[0].outcome == "no_gain"


def test_without_survivors_nothing_is_selected():
    own = [candidate("no_success", 0.0, 0.0)]
    select_one(own, config("gain", "best"))
    assert own[0].outcome == "no_success"


def test_the_funnel_by_hand():
    outcomes = {
        "unfinished": 2, "no_tag": 1, "unreadable": 1, "no_location": 1, "out_of_range": 1, "empty": 1,
        "unchanged": 2, "leak": 3, "duplicate": 4,
    }  # fmt: skip
    found = [candidate(name) for name, number in outcomes.items() for _ in range(number)]
    found += [
        candidate("selected", 0.5, 0.25, 0.5),
        candidate("not_best", 0.25, 0.0, 0.25),
        candidate("no_gain", 0.5, 0.5, 0.0),
        candidate("no_success", 0.0, 0.25, 0.0),
        candidate("no_room"),
    ]
    found[-2].problem = 7
    counts = funnel(3, 9, 1, 2, found)
    assert list(counts.values())[:13] == [3, 9, 1, 2, 21, 12, 9, 5, 4, 3, 2, 1, 1]
    assert counts["outcomes"] == {
        **outcomes, "selected": 1, "not_best": 1, "no_gain": 1, "no_success": 1, "no_room": 1
    }  # fmt: skip
    assert sum(counts["outcomes"].values()) == counts["proposals"]
    arms = {name: (row["mean_success"], row["problems_covered"]) for name, row in counts["efficacy"].items()}
    assert arms == {
        "prefix": (0.1875, 1), "prefix + original step": (0.25, 2), "prefix + intervention": (0.3125, 1)
    }  # fmt: skip
    assert {row["problems"] for row in counts["efficacy"].values()} == {2}
    assert funnel(1, 1, 0, 0, [candidate("leak")])["efficacy"] == {}


def test_the_funnel_says_nothing_of_what_its_filter_did_not_measure():
    found = [candidate("selected", 0.5), candidate("no_success", 0.0), candidate("not_first")]
    by_success = funnel(1, 2, 0, 0, found, "success")
    assert [by_success[name] for name in ("distinct", "continued", "successful", "selected")] == [3, 2, 1, 1]
    assert "gained" not in by_success and by_success["efficacy"] == {}
    unfiltered = funnel(1, 1, 0, 0, [candidate("selected")], "none")
    assert not {"continued", "successful", "gained"} & set(unfiltered) and unfiltered["selected"] == 1
