"""Answers as text: where they stand, and that what is decided without math-verify is what it would say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.grading import exact_verdict, extract_answer, first_answer_marker, normalize_answer
from fastrl.grading.answer import boxes
from fastrl.grading.worker import load_comparison


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} no, \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{7} and then \boxed{8", "7"),
        (r"\boxed{8", None),
        (r"\boxed{\boxed{3}}", r"\boxed{3}"),
        (r"\boxed{ }", None),
        (r"the answer is 5, no: \boxed{6}", "6"),
        ("The answer is 42. I hope it is right.", "42"),
        ("The answer is 4.25.", "4.25"),
        ("Final answer: $x^2$ (proved above)", "x^2"),
        (r"Final answer is \(y+1\)", "y+1"),
        ("**Answer:** 12\nthanks", "12"),
        ("answer is 1\nthe answer is 2", "2"),
        ("6 + 6 = 12\n#### 12", "12"),
        ("it is 12", None),
        ("", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 apples and 1,234.5 pears", "1,234.5"),
        ("x2 is 7/8", "7/8"),
        ("-3", "-3"),
        ("v1.2.3", None),
        ("none", None),
    ],
)
def test_last_number_only_on_request(text, answer):
    assert extract_answer(text, allow_last_number=True) == answer
    assert extract_answer(text) is None


def test_boxes_are_where_they_say():
    text = r"a \boxed{1{2}3} b \boxed{} c \boxed{x"
    assert [text[start:end] for start, end in boxes(text)] == ["1{2}3", ""]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (r"ab \boxed{1}", 3),
        ("think</think>", 5),
        ("so FINAL ANSWER", 3),
        ("the answer is", 4),
        ("n #### 3", 2),
        ("answering isn't", None),
        ("box", None),
    ],
)
def test_first_answer_marker(text, place):
    assert first_answer_marker(text) == place


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{1}",
        "the answer is 1",
        "Answer: 1",
        "**Answer**: 1",
        "answer = 1",
        "#### 1",
        "Final answer is $1$",
    ],
)
def test_every_extractable_answer_has_a_marker_before_it(text):
    assert extract_answer(text) == "1"
    assert first_answer_marker(text) < text.index("1")


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("$x+1$.", "x+1"),
        (r"\$36", r"\$36"),
        (" a\n  b ", "a b"),
        ("1, 2, ...", "1, 2, ..."),
        ("5.", "5"),
        ("$a$, $b$", "a , b"),
    ],
)
def test_normalize_answer(answer, normal):
    assert normalize_answer(answer) == normal


@pytest.mark.parametrize(
    ("prediction", "gold", "verdict"),
    [
        ("5", "5", True),
        ("5", "6", False),
        ("-5", "5", False),
        ("1,000", "1000", True),
        ("007", "7", True),
        ("1/2", r"\frac{2}{4}", True),
        (r"-\dfrac{1}{3}", "-1/3", True),
        ("6/2", "3", True),
        ("0.5", "2", False),
        ("100000000000001", "100000000000000", False),
        ("east", "east", True),
        ("0.5", "1/2", None),
        ("0.333333", "1/3", None),
        ("1/0", "2", None),
        ("50\\%", "50", None),
        ("1e3", "1000", None),
        ("1,00", "100", None),
        ("\u0661", "1", None),
        ("east", "west", None),
        ("x=5", "5", None),
        ("9" * 5000, "1", None),
    ],
)
def test_exact_verdict(prediction, gold, verdict):
    assert exact_verdict(prediction, gold) is verdict


small = st.integers(-12, 12)
whole = st.one_of(small, st.integers(-(10**15), 10**15))
places = st.integers(0, 7)
signs, fracs = st.sampled_from(["", "-"]), st.sampled_from(["frac", "dfrac", "tfrac"])
beginnings = st.sampled_from(["-", "0", "00", "+", ".", " "])
endings = st.sampled_from(["%", r"\%", ".", ",", "e2", " 000", "^2", r"^\circ", "x", "!"])
numbers = st.one_of(
    whole.map(str),
    whole.map("{:,}".format),
    st.builds("{}/{}".format, small, st.integers(0, 12)),
    st.builds(r"{}\{}{{{}}}{{{}}}".format, signs, fracs, st.integers(0, 12), st.integers(0, 12)),
    st.builds(lambda n, p: f"{n / 10**p:.{p}f}", st.integers(-(10**7), 10**7), places),
    st.builds("{}{}".format, beginnings, small),
    st.builds("{}{}".format, small, endings),
)


@pytest.fixture(scope="module")
def math_verify_says():
    return load_comparison()


@settings(max_examples=400, deadline=None)
@given(prediction=numbers, gold=numbers)
def test_numbers_are_decided_as_math_verify_would(math_verify_says, prediction, gold):
    agree(math_verify_says, prediction, gold)


@settings(max_examples=200, deadline=None)
@given(n=st.integers(-60, 60), d=st.integers(1, 60), p=st.integers(1, 6), frac=st.booleans())
def test_roundings_are_decided_as_math_verify_would(math_verify_says, n, d, p, frac):
    ratio = rf"\frac{{{n}}}{{{d}}}" if frac and n >= 0 else f"{n}/{d}"
    agree(math_verify_says, f"{n / d:.{p}f}", ratio)
    agree(math_verify_says, ratio, f"{n / d:.{p}f}")


def agree(math_verify_says, prediction, gold):
    prediction, gold = normalize_answer(prediction), normalize_answer(gold)
    verdict = exact_verdict(prediction, gold)
    if verdict is not None and prediction != gold:
        assert verdict == (math_verify_says(prediction, gold) == "correct")
