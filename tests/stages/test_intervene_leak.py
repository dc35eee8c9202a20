"""Does a step give the answer away? At token boundaries, by value, in boxes; and where it does not."""

import pytest

from fastrl.stages.intervene.leak import leaks


@pytest.mark.parametrize(
    "content, gold",
    [
        ("so x = 12.", "12"),
        ("12%", "12"),
        ("it is 12, then", "12"),
        ("the point (3,12)", "12"),
        ("from 5-12", "12"),
        ("$12$ and \\(12\\)", "12"),
        ("\\frac{12}{5} or 12", "12"),
        ("we get 1,200 now", "1200"),
        ("f = -12", "-12"),
        ("p is \\frac{1}{2}.", "1/2"),
        ("p is 2/4", "\\frac{1}{2}"),
        ("rate 0.5 here", "0.5"),
        ("that is 2 \\sqrt{ 3 }", "2\\sqrt{3}"),
        ("so x+1 is it", "x + 1"),
        ("the pair (1, 2)", "(1,2)"),
        ("\\boxed{24/2}", "12"),
        ("\\boxed{A}", "A"),
    ],
)
def test_a_planted_leak_is_found(content, gold):
    assert leaks(content, gold)


@pytest.mark.parametrize(
    "content, gold",
    [
        ("312 and 123", "12"),
        ("12.5 or 0.12", "12"),
        ("1/12 and 12/5", "12"),
        ("\\frac{1}{12} + \\frac{12}{5}", "12"),
        ("12,000", "12"),
        ("-12", "12"),
        ("12x + 5", "12"),
        ("x^12 + y^{12} + a_{12} + b_12", "12"),
        ("3\\sqrt{2}", "\\sqrt{2}"),
        ("x+12", "x+1"),
        ("xyz", "xy"),
        ("A man", "A"),
        ("\\boxed{13}", "12"),
        ("", "12"),
    ],
)
def test_what_merely_holds_its_letters_is_none(content, gold):
    assert not leaks(content, gold)
