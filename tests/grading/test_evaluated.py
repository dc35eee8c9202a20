r"""An answer is worked out as far as the gold answer is: \binom{10}{3} is not paid for 120."""

import pytest

from fastrl.config import AnswerConfig
from fastrl.grading import AnswerGrader, Verdict
from fastrl.grading.evaluated import is_evaluated

UNDONE = [
    (r"12345 \times 6789", "83810205"),
    (r"\sum_{k=1}^{100} k", "5050"),
    (r"\binom{10}{3}", "120"),
    (r"\gcd(12,18)", "6"),
    (r"\int_0^1 2x \, dx", "1"),
    ("1+1", "2"),
    ("20+22", "42"),
    ("100 - 58", "42"),
    ("5!", "120"),
    ("0!", "1"),
    (r"\prod_{i=1}^5 i", "120"),
    (r"\log_2 8", "3"),
    (r"\ln e^3", "3"),
    (r"17 \bmod 5", "2"),
    (r"17 \pmod 5", "2"),
    (r"\frac{\frac{1}{2}}{3}", r"\frac16"),
    (r"\frac{84}{2}", "42"),
    ("84/2", "42"),
    (r"84 \div 2", "42"),
    ("-(84/2)", "-42"),
    (r"\frac{1.5}{2}", "0.75"),
    ("(2)(3)", "6"),
    ("2(3)", "6"),
    ("6*7", "42"),
    (r"x = 6 \cdot 7", "42"),
    (r"6 \cdot 7 = 7 \cdot 6", "42"),
    (r"\sqrt{16}", "4"),
    ("2^{10}", "1024"),
    ("i^2", "-1"),
    (r"e^{i\pi}", "-1"),
    ("-(-5)", "5"),
    ("|{-5}|", "5"),
    (r"\lfloor 2.5 \rfloor", "2"),
    (r"\max(3,5)", "5"),
    (r"\lim_{x\to 0} \frac{\sin x}{x}", "1"),
    (r"\cos 60^\circ", "0.5"),
    (r"(1+2, 2\cdot 2)", "(3,4)"),
    (r"\{1+1, 3\}", r"\{2,3\}"),
    (r"x=1+1, y=3", "(2,3)"),
    (r"12.5 \times 3.7", "46.25"),
    (r"46 + \frac{1}{4}", "46.25"),
    (r"\frac{185 \sqrt{1}}{4}", "46.25"),
    (r"3.5 + \pi - \pi", "3.5"),
    (r"2.5 + 0\pi", "2.5"),
    (r"\sin(1)", "0.841471"),
    (r"2^8 \cdot 5^8", "10^8"),
    (r"2\sin 60^\circ", r"\sqrt{3}"),
    (r"\binom{10}{3}\sqrt{2}", r"120\sqrt{2}"),
    (r"\int_0^1 \frac{1}{1+x^2} dx", r"\frac{\pi}{4}"),
    ("x^2-3x+2=0", "1, 2"),
    ("(x-1)(x-2)=0", r"\{1, 2\}"),
    (r"\{x : x^2=9\}", "3, -3"),
    ("x^2 = 9", r"\pm 3"),
    ("x^2=2", r"\sqrt2, -\sqrt2"),
    ("2x = 10", "x=5"),
    ("x^2 < 4", "-2 < x < 2"),
    ("x^2 < 4", "(-2, 2)"),
    ("(x-2)(x-3) > 0", r"(-\infty, 2) \cup (3, \infty)"),
    (r"2x \ge 4", r"x \ge 2"),
    (r"x > 1 + 1", "x > 2"),
    (r"(1+1, \infty)", "x > 2"),
    (r"(-\infty, 1+1) \cup (3, \infty)", r"(-\infty, 2) \cup (3, \infty)"),
    (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"),
    (r"\int_0^x 2t \, dt", "x^2"),
    (r"\frac{d}{dx} x^2", "2x"),
]
DONE = [
    ("1,000", "1000"),
    (r"\frac{2}{6}", r"\frac13"),
    ("3/8", "0.375"),
    (r"2\frac12", "2.5"),
    ("10^6", "1000000"),
    ("-(5)", "-5"),
    (r"20\%", "0.2"),
    (r"\$5", "5"),
    ("5 apples", "5"),
    (r"\frac{7}{2} \text{ cm}", "3.5"),
    ("x=5", "5"),
    (r"6 \cdot 7 = 42", "42"),
    (r"\pm 3", "3, -3"),
    ("x=1, y=2", "(1,2)"),
    (r"\frac{8}{4}", "8/4"),
    (r"6 \cdot 7", r"6\cdot7"),
    (r"\sqrt{2}", "1.41421356"),
    (r"\frac{1+\sqrt5}{2}", "1.6180339"),
    (r"2\pi", "6.2831853"),
    (r"\frac{\pi}{2}", r"90^\circ"),
    (r"\frac{1}{10^{8}}", "10^{-8}"),
    ("1024", "2^{10}"),
    ("4^5", "2^{10}"),
    (r"\sqrt{12}", r"2\sqrt3"),
    (r"12(1+\sqrt3)", r"12+12\sqrt3"),
    (r"\frac{\ln 3}{\ln 2}", r"\log_2 3"),
    (r"\frac{10!}{7!3!}", r"\binom{10}{3}"),
    (r"\binom{10}{3}\sqrt{2} = 120\sqrt{2}", r"120\sqrt{2}"),
    (r"+\infty", r"\infty"),
    (r"[2,\infty)", r"x \ge 2"),
    (r"\binom{n+1}{2}", r"\frac{n(n+1)}{2}"),
    (r"\frac12\sin(2x)", r"\sin x \cos x"),
    ("4x+2y=6", "2x+y=3"),
    ("y = 3-2x", "2x+y=3"),
    ("x^2-2x+1+y^2=9", "(x-1)^2+y^2=9"),
    (r"x \ge 2", r"[2,\infty)"),
    ("2 < x", "x > 2"),
    (r"\theta_1 \le 2", r"\theta_1 \leq 2"),
    ("1 < x < 2", "(1,2)"),
    (r"x \ne 3", r"(-\infty,3)\cup(3,\infty)"),
    (r"(-\infty,3)\cup(3,\infty)", r"x \ne 3"),
    (r"\mathbb{R}\setminus\{3\}", r"(-\infty,3)\cup(3,\infty)"),
    (r"x>2 \text{ or } x<-2", r"(-\infty,-2)\cup(2,\infty)"),
    (r"-\sqrt2 < x < \sqrt2", r"(-\sqrt2, \sqrt2)"),
    (r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"x = 2 \pm \sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}"),
    (r"x \in [0,1)", "[0,1)"),
    (r"0 \leq x < 1", "[0, 1)"),
    ("B", "B"),
]


@pytest.mark.parametrize(("answer", "gold"), UNDONE)
def test_left_undone(answer, gold):
    assert not is_evaluated(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), DONE)
def test_worked_out(answer, gold):
    assert is_evaluated(answer, gold)


@pytest.mark.parametrize("piece", ["1", "1.", "{1", "-1", "(", r"\sqrt{2}", r"\pi", "1^", "10^2", r"\frac"])
def test_no_search_is_exponential(piece):
    """Milliseconds; an exponential search would never end."""
    for gold in ("1.5", "10^8", r"\sqrt2", "x"):
        is_evaluated(piece * (1900 // len(piece)) + "!", gold)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, Verdict.UNEVALUATED),
        ({"unevaluated": "paid"}, Verdict.CORRECT),
        ({"level": "lenient"}, Verdict.CORRECT),
        ({"level": "lenient", "unevaluated": "unpaid"}, Verdict.UNEVALUATED),
    ],
)
def test_the_level_decides_or_the_option(options, verdict):
    with AnswerGrader.of(AnswerConfig(**options)) as grader:  # no process: a quotient needs no algebra
        assert grader.grade([(r"\boxed{84/2}", "42"), (r"\boxed{84/4}", "42"), (r"\boxed{42}", "42")]) == [
            verdict, Verdict.WRONG, Verdict.CORRECT,
        ]  # fmt: skip
        assert grader.explain(r"\boxed{84/2}", "42").verdict is verdict
        assert grader.equal([("84/2", "42")]) == [Verdict.CORRECT]


def test_only_math_verify_decides_on_whole_responses():
    assert AnswerGrader.of(AnswerConfig(extraction="whole_response")).pays_unevaluated
    with pytest.raises(ValueError, match=r"\[answer\] unevaluated: expected by_level or paid"):
        AnswerConfig(extraction="whole_response", unevaluated="unpaid")
