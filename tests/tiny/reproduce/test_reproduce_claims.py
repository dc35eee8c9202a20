"""Claims are decided by their rules: intervals, signs and small effects by hand; all their numbers exist."""

import json
import re
from dataclasses import replace

import pytest
from places import ROOT

from fastrl.tiny.reproduce import interventions, rltr, studies, tracelift, weak
from fastrl.tiny.reproduce.claims import CLAIMS, Claim, Finding
from fastrl.tiny.reproduce.options import Sizes

RESULTS = ROOT / "bench" / "results"
DIFFERENCE = Claim(name="d", study="rltr", text="t", paper="p", first=("a", "x@{samples}"), second=("b", "y"))
RATIO = replace(DIFFERENCE, ratio=True, above=1.0, below=1.1)
LITTLE_LOST = replace(DIFFERENCE, above=-0.05, below=-0.05)
CLAIM = {claim.name: claim for claim in CLAIMS}


def finding(claim, *effects):
    """Seeds with these effects: a second number of 1, and a first one that makes them."""
    return Finding(claim=claim, pairs=[(e if claim.ratio else 1 + e, 1.0) for e in effects])


def test_the_interval_is_of_the_paired_effects():
    found = Finding(claim=DIFFERENCE, pairs=[(0.9, 0.8), (0.5, 0.3), (0.4, 0.1)]).interval
    # 0.1 0.2 0.3: s = 0.1, and 4.302653 of t with two degrees of freedom
    assert (found.mean, found.n) == (pytest.approx(0.2), 3)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("claim", "effects", "verdict"),
    [
        (DIFFERENCE, (0.10, 0.11, 0.12), "holds"),
        (DIFFERENCE, (0.001, 0.001, 0.001), "holds"),  # the sign decides, however small
        (DIFFERENCE, (0.0, 0.0, 0.0), "does not hold"),  # surely smaller than what would count
        (DIFFERENCE, (-0.10, -0.11, -0.12), "does not hold"),
        (DIFFERENCE, (0.1, 0.2, 0.9), "undecided"),
        (DIFFERENCE, (-0.05, 0.0, 0.06), "undecided"),
        (DIFFERENCE, (0.5,), "undecided"),  # one seed decides nothing
        (DIFFERENCE, (), "undecided"),
        (RATIO, (2.0, 2.1, 2.2), "holds"),
        (RATIO, (1.0, 1.0, 1.0), "does not hold"),
        (RATIO, (0.5, 1.5, 2.5), "undecided"),
        (LITTLE_LOST, (0.0, -0.01, -0.02), "holds"),  # high to low: -0.01 +- 0.025
        (LITTLE_LOST, (-0.2, -0.21, -0.22), "does not hold"),
        (LITTLE_LOST, (-0.04, -0.05, -0.06), "undecided"),
    ],
)
def test_verdicts_by_hand(claim, effects, verdict):
    assert finding(claim, *effects).verdict == verdict


def test_a_claim_finds_its_numbers_and_says_what_it_lacks():
    numbers = {"a": {"x@4": 0.75, "x@16": 0.5}, "b": {"y": 0.25}}
    assert DIFFERENCE.found(numbers, 16) == (0.5, 0.25)
    assert DIFFERENCE.effect((0.5, 0.25)) == 0.25 and RATIO.effect((0.5, 0.25)) == 2.0
    with pytest.raises(KeyError, match="x@8"):
        DIFFERENCE.found(numbers, 8)


def test_claims_have_unique_names_and_use_every_study():
    assert len(CLAIM) == len(CLAIMS) and {claim.study for claim in CLAIMS} == set(studies.STUDIES)
    assert all(claim.below >= claim.above for claim in CLAIMS)


def of(study):
    return [claim for claim in CLAIMS if claim.study == study]


def test_what_the_long_study_of_int_found_is_where_its_claims_look():
    seeds = json.loads((RESULTS / "int_study.json").read_text())["results"]
    pairs = {claim.name: [claim.found(seed, 64) for seed in seeds] for claim in of("int")}
    means = {
        name: [round(sum(side) / 3, 2) for side in zip(*own, strict=True)] for name, own in pairs.items()
    }
    # as its table has them
    assert means == {"int/intervention": [0.35, 0.02], "int/rl": [0.76, 0.35], "int/reference": [0.76, 0.15]}


def test_what_the_long_study_of_tracelift_found_is_where_its_claims_look():
    seeds = json.loads((RESULTS / "tracelift_study.json").read_text())["results"]
    found = {
        claim.name: Finding(claim=claim, pairs=[claim.found(seed, 64) for seed in seeds])
        for claim in of("tracelift")
    }
    # three seeds within a point of execution alone: no effect that would count
    assert abs(found["tracelift/product"].interval.mean) < 0.01
    assert found["tracelift/start"].verdict == "holds"


def test_what_the_long_study_of_rltr_found_is_where_its_claims_look():
    seeds = json.loads((RESULTS / "rltr_study.json").read_text())["results"]
    seeds = [seed | {"steps_counted": seed["steps_to_it"]} for seed in seeds]
    found = {c.name: Finding(claim=c, pairs=[c.found(seed, 16) for seed in seeds]) for c in of("rltr")}
    assert found["rltr/transfer"].verdict == found["rltr/held_out"].verdict == "holds"
    assert found["rltr/steps"].interval.mean == pytest.approx((57 / 41 + 37 / 18 + 27 / 22) / 3)


def test_the_weak_study_trains_what_its_claims_compare(tmp_path, monkeypatch):
    def trained(self, setting, steps):
        asked.append((self.name, setting, steps, self.config.world.seed, self.probed))
        return {"test/gain": 0.25 * len(self.name), "test/final": len(setting) / 16}

    asked = []
    monkeypatch.setattr(weak.WeakStudy, "trained", trained)
    monkeypatch.setattr(weak.WeakStudy, "before", lambda self: {"test": 0.5})
    found = studies.run_weak(7, Sizes(steps=5), tmp_path)
    assert asked == [
        ("explicit", "scarce", 5, 7, False), ("explicit", "noise=0", 5, 7, False),
        ("explicit", "noise=0.3", 5, 7, False), ("explicit", "selfcertainty", 10, 7, False),
        ("guessed", "scarce", 5, 7, False), ("guessed-rescued", "scarce", 5, 7, False),
    ]  # fmt: skip
    assert {c.name: c.found(found, 16) for c in of("weak")} == {
        "weak/faithful": (2.0, 1.75), "weak/rescue": (3.75, 1.75), "weak/certainty": (0.5, 13 / 16),
        "weak/noise": (9 / 16, 7 / 16),
    }  # fmt: skip


def test_int_and_tracelift_train_what_their_claims_compare(tmp_path, monkeypatch):
    asked = []
    for study in (interventions.InterventionStudy, tracelift.TraceliftStudy):
        monkeypatch.setattr(study, "run", lambda self, *arms: asked.append((self, arms)))
    sizes = Sizes(steps=5, problems=6, samples=7, teach=3)
    studies.run_int(2, sizes, tmp_path)
    studies.run_tracelift(2, sizes, tmp_path)
    (of_int, int_arms), (of_lift, lift_arms) = asked
    assert int_arms == (["int", "rl", "reference"], []) and lift_arms == (["product", "execution"],)
    assert (of_int.steps, of_int.num_problems, of_int.num_samples, of_int.seed) == (5, 6, 7, 2)
    assert (of_lift.steps, of_lift.num_problems, of_lift.task, of_lift.seed) == (5, 6, "math", 2)
    assert of_int.config.world.num_wrong_entries == 18 and of_int.config.world.generator.num_steps == 3
    assert of_lift.config.world.seed == of_int.config.world.seed == 2
    assert of_lift.config.planner.num_steps == of_lift.config.world.receiver.num_steps == 3


def test_the_committed_table_follows_from_its_numbers_and_these_rules():
    whole = json.loads((RESULTS / "reproduce.json").read_text())
    assert [each["name"] for each in whole["claims"]] == list(CLAIM)
    for each in whole["claims"]:
        claim = CLAIM[each["name"]]
        found = Finding(claim=claim, pairs=list(zip(each["first"], each["second"], strict=True)))
        assert (each["claim"], each["paper"], len(each["seeds"])) == (
            claim.text,
            claim.paper,
            found.interval.n,
        )
        assert each["verdict"] == found.verdict and each["low"] == pytest.approx(found.interval.low)
        assert each["rule"] == {
            "holds_above": claim.above, "does_not_hold_below": claim.below, "ratio": claim.ratio
        }  # fmt: skip


def test_the_page_says_of_the_papers_what_the_claims_say():
    page = (ROOT / "docs/reproduce.md").read_text().partition("| | the paper's figure |")[2]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [(str(number), claim.paper) for number, claim in enumerate(CLAIMS, 1)]
    # the paper prints 84.2 and the rise of 3.6: 80.6 is inferred
    assert "84.2, 3.6 above RLVR (so 80.6)" in rows[2][1] and round(84.2 - 3.6, 1) == 80.6


@pytest.mark.parametrize(("target", "step"), [(0.0, 5), (0.25, 7), (0.5, 8), (0.9, None)])
def test_steps_to_an_accuracy_by_hand(target, step):
    # means of five end at steps 5 to 8: 0, 0.2, 0.4, 0.6
    assert rltr.steps_to([0.0] * 5 + [1.0, 1.0, 1.0], target) == step
