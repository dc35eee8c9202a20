"""Calculator flaws: worked solutions are parsed and changed at one place, by hand and on real GSM8K."""

import re
from fractions import Fraction
from random import Random

import pytest
from places import SHARED_DATA

from fastrl.config import DataConfig, GroupsConfig
from fastrl.methods.tracelift.groups.calculator import KINDS, labelled, perturb, work_of
from fastrl.methods.tracelift.groups.drafts import UnusableError, by_rule, label_of, total_of
from fastrl.methods.tracelift.groups.edits import Edit, apply_edits, carry, plausible, write_number
from fastrl.methods.tracelift.groups.proposals import calculated
from fastrl.methods.tracelift.groups.rationale import parse_formula, parse_rationale, strip_marks
from fastrl.methods.tracelift.groups.seeds import read_seeds
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS

REAL = SHARED_DATA / "gsm8k_train.jsonl"
needs_real_file = pytest.mark.skipif(not REAL.is_file(), reason=f"no benchmark file {REAL}")

QUESTION = (
    "Ann buys 6 boxes of 12 pens at $30 a box. She sells a third of the 72 pens at $9. What does she earn?"
)
SOLUTION = (
    "She pays 6*30 = $<<6*30=180>>180.\n"
    "She sells 72/3 = <<72/3=24>>24 pens.\n"
    "These 24 pens bring 24 x $9 = $<<24*9=216>>216.\n"
    "She earns $216 - $180 = $<<216-180=36>>36.\n#### 36"
)
TEXT = (
    "She pays 6*30 = $180.\nShe sells 72/3 = 24 pens.\n"
    "These 24 pens bring 24 x $9 = $216.\nShe earns $216 - $180 = $36."
)


@pytest.fixture
def work():
    return work_of(QUESTION, parse_rationale(SOLUTION))


def flaws(work, kind, seed=0):
    """Every flaw of a kind: {text: (what stands at its place, whether the answer is kept)}."""
    out = {}
    for flaw in KINDS[kind].flaws(work, Random(seed)):
        text, (start, end) = apply_edits(work.rationale.text, flaw.edits, flaw.cause)
        out[text] = (text[start:end], flaw.keeps_answer)
    return out


def test_a_solution_taken_apart(work):
    rationale = work.rationale
    assert rationale.text == strip_marks(SOLUTION) == TEXT
    assert [rationale.result_of(equation) for equation in rationale.equations] == [180, 24, 216, 36]
    assert [equation.line for equation in rationale.equations] == [0, 1, 2, 3]
    spelled = [[int(rationale.numbers[i].value) for i in e.operands] for e in rationale.equations]
    assert spelled == [[6, 30], [72, 3], [24, 9], [216, 180]]
    assert work.given == {6, 12, 30, 72, 9}
    assert work.known == {6, 12, 30, 72, 9, 3}  # "a third"


@pytest.mark.parametrize(
    ("solution", "cause"),
    [
        ("It is 5.\n#### 5", "no calculator mark"),
        ("2+2 = <<2+2=5>>5", "a false equation"),
        ("1/0 = <<1/0=0>>0", "a false equation"),
        ("10/3 = <<10/3=3.33>>3.33", "a false equation"),
        ("x = <<5=5>>5", "a mark without an operation"),
        ("2**3 = <<2**3=8>>8", "a mark that is no equation"),
        ("2+2 = <<2+a=4>>4", "a mark that is no equation"),
        ("2+2 = <<2+2>>4", "a mark that is no equation"),
        ("2+ = <<2+=4>>4", "a mark that is no equation"),
        ("2+2 = <<2+2=4>>5", "a mark whose result the text does not repeat"),
        ("2+2 = <<2+2=4>> 4", "a mark whose result the text does not repeat"),
        ("20% of 50 = <<.2*50=10>>10", "a mark whose formula the text does not spell out"),
        ("3*2 = <<30*2=60>>60", "a mark whose formula the text does not spell out"),
        ("2+2 = <<2+2=4>>4\n4*3 = 13", "an equation without a mark"),
    ],
)
def test_solutions_that_are_refused(solution, cause):
    with pytest.raises(UnusableError, match=f"^{re.escape(cause)}$"):
        parse_rationale(solution)


def test_formulas_by_hand():
    formula = parse_formula("(5+.5)*2/4")
    assert formula.numbers == (5, Fraction(1, 2), 2, 4)
    assert formula.value(formula.numbers) == Fraction(11, 4)
    assert formula.value([1, 2, 3, 0]) is None
    assert formula.signs == ()
    assert parse_formula("6-2*3").signs == ("-", "*")


def test_a_slip_is_carried_to_the_end(work):
    found = flaws(work, "arithmetic_slip")
    # 24 -> 25: 25 * 9 = 225, 225 - 180 = 45; the 24 in "These 24 pens" goes along
    text = (
        "She pays 6*30 = $180.\nShe sells 72/3 = 25 pens.\n"
        "These 25 pens bring 25 x $9 = $225.\nShe earns $225 - $180 = $45."
    )
    assert found[text] == ("25", False)
    assert TEXT.replace("$36.", "$35.") in found
    # 180 -> 226 or more would leave her with less than nothing
    assert all("-$" not in text and "$0." not in text for text in found)


def test_a_misread_quantity_stays_in_its_line(work):
    found = flaws(work, "wrong_quantity_read")
    text = (
        "She pays 6*30 = $180.\nShe sells 72/3 = 24 pens.\n"
        "These 24 pens bring 24 x $12 = $288.\nShe earns $288 - $180 = $108."
    )
    assert found[text] == ("12", False)
    assert not any("72/4" in text or "72/2" in text for text in found)  # 3 is not among the question's digits
    assert all(not keeps for _, keeps in found.values())


def test_another_operation(work):
    found = flaws(work, "wrong_operation")
    text = TEXT.replace("$216 - $180 = $36", "$216 + $180 = $396")
    assert found[text] == ("+", False)
    # 6+30 = 36: 216 - 36 = 180
    assert (
        TEXT.replace("6*30 = $180", "6+30 = $36").replace("$216 - $180 = $36", "$216 - $36 = $180") in found
    )
    # 72-3 = 69: 69 * 9 = 621; 621 - 180 = 441
    assert any(
        "72-3 = 69 pens.\nThese 69 pens bring 69 x $9 = $621.\nShe earns $621 - $180 = $441" in t
        for t in found
    )


def test_a_condition_left_out(work):
    # the second line left out: 72 x 9 = 648; without the third, 24 - 180 would be no earning
    text = "She pays 6*30 = $180.\nThese 72 pens bring 72 x $9 = $648.\nShe earns $648 - $180 = $468."
    assert flaws(work, "missing_condition")[text] == ("", False)
    assert not any("24 - $180" in text for text in flaws(work, "missing_condition"))


def test_steps_out_of_place(work):
    lines = TEXT.split("\n")
    skipped = flaws(work, "skipped_step")
    assert skipped == {"\n".join(lines[:i] + lines[i + 1 :]): ("", True) for i in (0, 1, 2)}
    swapped = flaws(work, "order_mixup")
    last, middle = f"{lines[3]}\n{lines[2]}", f"{lines[2]}\n{lines[1]}"
    assert swapped == {
        "\n".join([*lines[:2], last]): (last, True),
        "\n".join([lines[0], middle, lines[3]]): (middle, True),
    }


def test_conclusions_and_units():
    solution = (
        "It takes 2*15 = <<2*15=30>>30 minutes.\nWith breaks 30+5 = <<30+5=35>>35 minutes.\nSo 35 minutes."
    )
    work = work_of("", parse_rationale(solution))
    assert flaws(work, "unit_mixup") == {
        "It takes 2*15 = 30 hours.\nWith breaks 30+5 = 35 minutes.\nSo 35 minutes.": ("hours", True),
        "It takes 2*15 = 30 minutes.\nWith breaks 30+5 = 35 hours.\nSo 35 minutes.": ("hours", False),
    }
    concluded = flaws(work, "wrong_conclusion")
    assert {text.rpartition("\n")[2] for text in concluded} == {"So 30 minutes.", "So 5 minutes."}
    assert flaws(work, "no_conclusion") == {"It takes 2*15 = 30 minutes.": ("", False)}
    bare = work_of("", parse_rationale(solution.replace("\nSo 35 minutes.", "")))
    for text, (place, keeps) in flaws(bare, "wrong_conclusion").items():
        assert re.fullmatch(r"\n[A-Z][a-z, ]+ answer is (30|5)\.", place)
        assert text == bare.rationale.text + place and not keeps
    same = work_of("", parse_rationale("7*1 = <<7*1=7>>7"))  # of its numbers, 1 alone is a wrong answer
    assert [text[-2:] for text in flaws(same, "wrong_conclusion")] == ["1."]
    one = work_of("", parse_rationale("It takes 2*15 = <<2*15=30>>30 minutes."))
    assert flaws(one, "no_conclusion") == flaws(one, "skipped_step") == flaws(one, "order_mixup") == {}


def test_what_can_not_be_traced_is_not_carried():
    # 4 comes from the first line or from the question's "four"
    rationale = parse_rationale("2*2 = <<2*2=4>>4.\n4*5 = <<4*5=20>>20.")
    result = rationale.equations[0].result
    assert carry(rationale, set(), result, Fraction(4), Fraction(5)) == {3: 5, 5: 25}
    assert carry(rationale, work_of("four", rationale).known, result, Fraction(4), Fraction(5)) is None
    # ... or stood there before
    rationale = parse_rationale("4 pens: 2*2 = <<2*2=4>>4.\n4*5 = <<4*5=20>>20.")
    assert carry(rationale, set(), rationale.equations[0].result, Fraction(4), Fraction(5)) is None
    # a mention among other numbers may mean something else
    rationale = parse_rationale("2*2 = <<2*2=4>>4.\nIn 4 of 7 cases.\n4*5 = <<4*5=20>>20.")
    assert carry(rationale, set(), rationale.equations[0].result, Fraction(4), Fraction(5)) is None


@pytest.mark.parametrize(
    ("solution", "index", "value", "expected"),
    [
        ("4*2 = <<4*2=8>>8", 2, Fraction(9), "9"),
        ("4*2 = <<4*2=8>>8", 2, Fraction(17, 2), None),  # whole stays whole
        ("4*2 = $<<4*2=8>>8", 2, Fraction(17, 2), "8.50"),  # but money has cents
        ("4*2 = $<<4*2=8>>8", 2, Fraction(8, 3), None),
        ("4*2 = $<<4*2=8.00>>8.00", 2, Fraction(9), "9.00"),
        ("1/8 = <<1/8=.125>>.125", 2, Fraction(3, 8), "0.375"),
        ("1/2 = <<1/2=.5>>.5", 2, Fraction(3, 8), None),
        ("4*500 = <<4*500=2000>>2000", 2, Fraction(2500), "2500"),
        ("4*500 = <<4*500=2000>>2,000", 2, Fraction(12500), "12,500"),
        ("4*2 = <<4*2=8>>8", 2, Fraction(801), None),
        ("4*2 = <<4*2=8>>8", 2, Fraction(0), None),
        ("4*2 = <<4*2=8>>8", 2, Fraction(-1), None),
    ],
)
def test_numbers_are_written_as_their_neighbours(solution, index, value, expected):
    rationale = parse_rationale(solution)
    assert plausible(rationale, index, value) is (expected is not None)
    if expected is not None:
        assert write_number(rationale, index, value) == expected


def test_edits_by_hand():
    cause = Edit(4, 4, "XY")
    assert apply_edits("abcdefg", [Edit(5, 7, ""), cause, Edit(0, 2, "A")], cause) == ("AcdXYe", (3, 5))
    with pytest.raises(ValueError, match=r"\[edits\] start: expected >= 3"):
        apply_edits("abcdefg", [Edit(0, 3, ""), Edit(2, 4, "")], cause)


def test_labels_by_hand(work):
    slip = next(KINDS["arithmetic_slip"].flaws(work, Random(0)))
    judgment = labelled(work.rationale, "arithmetic_slip", slip).judgment
    assert list(judgment.scores.values()) == [10, 10, 10, 1, 3]
    assert (judgment.total, judgment.label) == (pytest.approx((34 / 5 + 1) / 20), "bad")
    mixed = next(KINDS["order_mixup"].flaws(work, Random(0)))
    judgment = labelled(work.rationale, "order_mixup", mixed).judgment
    assert list(judgment.scores.values()) == [10, 10, 3, 10, 10]
    assert (judgment.total, judgment.label) == (pytest.approx((43 / 5 + 3) / 20), "weak")
    assert (by_rule("math", {}).total, by_rule("code", {}).label) == (1.0, "strong")
    assert [label_of(total) for total in (0.85, 0.8, 0.7, 0.4, 0.39)] == [
        "strong",
        "acceptable",
        "acceptable",
        "weak",
        "bad",
    ]
    assert total_of({"a": 0.0, "b": 10.0}) == 0.25
    assert {kind.dimension for kind in KINDS.values()} == set(DIMENSIONS["math"])


def test_kinds_come_in_turn_and_repeatably(work):
    one = perturb(work, 8, Random(5))
    assert one == perturb(work, 8, Random(5)) != perturb(work, 8, Random(6))
    # there is no unit in it, so all other eight kinds come once
    assert sorted(draft.negative_kind for draft in one) == sorted(KINDS.keys() - {"unit_mixup"})
    many = perturb(work, 30, Random(5))
    assert many[:8] == one and len({draft.text for draft in many}) == 30


NUMBER = r"\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
EQUATION = re.compile(rf"(?<![\w.,$])({NUMBER}(?:\s*[-+*/–×÷]\s*{NUMBER})+)\s*=\s*({NUMBER})")  # noqa: RUF001


PLAIN = str.maketrans("–×÷", "-*/")  # noqa: RUF001


def read_equations(text):
    """The equations that stand in a text in digits alone: [(span, whether it is true)]."""
    out = []
    for match in EQUATION.finditer(text):
        if text[: match.start()].rstrip().endswith(tuple("+-*/–×÷(%x")):  # noqa: RUF001
            continue  # the left side began earlier, with a word in it
        sides = [re.sub(r"[$,\s]", "", side).translate(PLAIN) for side in match.groups()]
        values = [eval(re.sub(r"\d+(?:\.\d+)?|\.\d+", r"Fraction('\g<0>')", side)) for side in sides]
        out.append((match.span(), values[0] == values[1]))
    return out


@needs_real_file
def test_real_solutions_stay_true_but_for_the_flaw():
    seeds, dropped = read_seeds(GroupsConfig(data=DataConfig(path=str(REAL), limit=400)))
    assert len(seeds) == 400 and not dropped
    used = num_equations = slips = 0
    kinds = set()
    for seed in seeds:
        try:
            drafts = calculated(seed, 8, run_seed=0)
        except UnusableError:
            continue
        used += 1
        assert all(true for _, true in read_equations(seed.positive.text)), seed.positive.text
        assert len({draft.text for draft in drafts} | {seed.positive.text}) == len(drafts) + 1
        for draft in drafts:
            equations = read_equations(draft.text)
            num_equations += len(equations)
            kinds.add(draft.negative_kind)
            wrong = [span for span, true in equations if not true]
            if draft.negative_kind != "arithmetic_slip":
                assert wrong == [], draft.text
            elif wrong:  # a slip next to words is not read by this test
                slips += 1
                assert len(wrong) == 1 and wrong[0][0] < draft.place[0] < draft.place[1] == wrong[0][1], (
                    draft.text
                )
    assert used > 280 and slips > 200 and num_equations > 4000
    assert kinds == set(KINDS)


def test_a_slip_that_does_not_reach_the_answer_is_none():
    work = work_of("", parse_rationale("Aside, 2*3 = <<2*3=6>>6.\nHe has 4*5 = <<4*5=20>>20."))
    found = flaws(work, "arithmetic_slip")
    assert found and all("2*3 = 6." in text for text in found)
