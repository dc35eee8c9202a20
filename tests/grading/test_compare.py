"""Answer equality: pairs that are equal and pairs that are not, at both levels and in both orders."""

# ruff: noqa: RUF001
from fractions import Fraction

import pytest

from fastrl.grading import exact_verdict
from fastrl.grading.algebra import SympyAlgebra
from fastrl.grading.compare import Judge, matching
from fastrl.grading.levels import LEVELS
from fastrl.grading.numbers import Number, equal_numbers, leading_number, read_number
from fastrl.grading.read import read
from fastrl.grading.units import TABLE, read_unit

ALGEBRA = SympyAlgebra()


def judged(one: str, other: str, level: str = "strict", tolerance: float = 0.0) -> bool | None:
    return Judge(LEVELS[level], tolerance, ALGEBRA).compare(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"0.\overline{3}", "1/3"),
        (r"0.\overline{142857}", r"\frac{1}{7}"),
        (r"0.\dot{3}", "1/3"),
        ("0.(3)", "1/3"),
        (r"1.2\overline{34}", r"\frac{611}{495}"),
        (r"0.333\ldots", r"\frac13"),
        (r"2\frac12", "2.5"),
        ("2 1/2", r"\frac{5}{2}"),
        (r"2\ \frac{1}{2}", "5/2"),
        ("2½", "2.5"),
        (r"-1\frac{1}{2}", "-1.5"),
        ("½", "0.5"),
        ("1 000", "1000"),
        (r"1\,000\,000", "1000000"),
        ("12,345,678", "12345678"),
        ("１２３", "123"),
        ("٣٤", "34"),
        ("−5", "-5"),
        ("3×10^8", "300000000"),
        ("3e8", "300000000"),
        ("3E8", r"3 \times 10^8"),
        (r"3.0 \cdot 10^{8}", r"3 \times 10^8"),
        (r"6.63\times10^{-34}", r"6.63 \times 10^{-34}"),
        ("10^{-3}", "0.001"),
        (r"\frac{1}{1000}", "10^{-3}"),
        ("√2/2", r"\frac{\sqrt{2}}{2}"),
        ("2√3", r"2\sqrt{3}"),
        ("√(2)", r"\sqrt{2}"),
        ("∛2", r"\sqrt[3]{2}"),
        ("x²+1", "x^2+1"),
        ("x₁", "x_1"),
        ("π", r"\pi"),
        ("2pi", r"2\pi"),
        (r"\theta = 30°", r"30^\circ"),
        ("60 degrees", r"60^\circ"),
        ("60", "60°"),
        (r"90^{\circ}", "90"),
        (r"\frac{\pi}{2}", r"90^\circ"),
        (r"\cos 60^\circ", "0.5"),
        (r"\tan(45^\circ)", "1"),
        ("5 cm", "5"),
        ("5 cm", r"5 \text{ centimeters}"),
        ("5cm", "5"),
        (r"5\mathrm{cm}", "5"),
        ("500 cm", "5 m"),
        ("2 hours", "120 minutes"),
        ("25 cm^2", "25"),
        (r"25 \text{ cm}^2", "25 square centimeters"),
        ("25 sq cm", "25"),
        ("9.8 m/s^2", r"9.8 \text{ m s}^{-2}"),
        ("60 miles per hour", "60 mph"),
        (r"\$5", "5"),
        ("5 dollars", r"\$5"),
        (r"\$0.50", "50 cents"),
        ("$5.00", "5"),
        ("€12", "12 euros"),
        ("5 元", "5"),
        ("5元", "5"),
        ("¥300", "300"),
        (r"20\%", "20"),
        (r"20\%", "0.2"),
        ("20 percent", r"\frac15"),
        ("0.2", r"20\%"),
        ("12.5%", "1/8"),
        ("(1,2)", "(1, 2)"),
        ("(1,2)", r"\left(1,2\right)"),
        (r"\langle 1,2,3\rangle", "(1,2,3)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("1,2,3", "3,2,1"),
        (r"\{1,2,3\}", "3,2,1"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("x=1, y=2", "(1,2)"),
        ("(x,y)=(1,2)", "x=1,y=2"),
        ("x=1,y=2", "y=2,x=1"),
        (r"x=1 \text{ and } y=2", "(1,2)"),
        (r"x = 1 \text{ or } x = 2", "1,2"),
        (r"x \in \{1,2\}", "1,2"),
        (r"x=\pm 2", "2,-2"),
        (r"\pm\sqrt{2}", r"\sqrt2, -\sqrt2"),
        (r"x = 2 \pm \sqrt{3}", r"2+\sqrt{3}, 2-\sqrt{3}"),
        (r"1, \pm 2", "1,2,-2"),
        ("[0,1)", r"0 \le x < 1"),
        (r"x \in [0,1)", "[0,1)"),
        (r"0 \leq x < 1", "[0, 1)"),
        ("x < 4", r"(-\infty, 4)"),
        (r"(-\infty,4)", "x<4"),
        (r"x>2 \text{ or } x<-2", r"(-\infty,-2)\cup(2,\infty)"),
        (r"(2,\infty)\cup(-\infty,-2)", r"(-\infty,-2)\cup(2,\infty)"),
        (r"x \ne 3", r"(-\infty,3)\cup(3,\infty)"),
        (r"\mathbb{R}\setminus\{3\}", r"(-\infty,3)\cup(3,\infty)"),
        (r"\mathbb{R}", r"(-\infty,\infty)"),
        ("ℝ", r"\mathbb{R}"),
        ("]0,1[", "(0,1)"),
        (r"\{x \mid x > 2\}", r"(2,\infty)"),
        (r"\{x : x > 2\}", "x>2"),
        ("2x+y=3", "y=3-2x"),
        ("2x+y=3", "4x+2y=6"),
        ("x > 3", "3 < x"),
        ("-x < -3", "x > 3"),
        ("y=2x+1", "2x+1"),
        ("f(x)=2x+1", "2x+1"),
        (r"\emptyset", r"\varnothing"),
        (r"\emptyset", r"\{\}"),
        ("∅", r"\text{no solution}"),
        ("no solutions", "No solution"),
        ("no real solutions", r"\emptyset"),
        ("A", "(A)"),
        ("A.", "A"),
        (r"\text{A}", "A"),
        (r"\textbf{(B)}", "B"),
        ("(B) 12", "B"),
        ("B. 12", "B"),
        ("B: because", "B"),
        ("Option C", "C"),
        ("A, C", "C, A"),
        ("A and C", "A,C"),
        ("True", "true"),
        (r"\text{Yes}", "yes"),
        ("East", r"\text{east}"),
        ("ABC", "ABC"),
        ("3:2", "3 : 2"),
        ("3∶2", "3:2"),
        ("9:15", "9:15"),
        ("2:30 PM", "2:30"),
        ("745_9", "745_{9}"),
        ("745_9", "745"),
        ("101_2", "101_{2}"),
        (r"\binom{5}{2}", "10"),
        ("5!", "120"),
        ("2^{10}", "1024"),
        (r"\log_2 8", "3"),
        (r"\ln e^2", "2"),
        ("i^2", "-1"),
        ("3+4i", "4i+3"),
        (r"\frac{1+i}{2}", r"\frac12+\frac{i}{2}"),
        (r"e^{i\pi}", "-1"),
        (r"\sin^2 x + \cos^2 x", "1"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\frac{x^2-1}{x-1}", "x+1"),
        (r"\ln(x^2)", r"2\ln x"),
        (r"\sqrt{x^2+2x+1}", r"\sqrt{(x+1)^2}"),
        ("ab", "ba"),
        ("xy", "yx"),
        ("0.333333", r"\frac13"),
        ("1.41421356", r"\sqrt2"),
        ("0.30000000000000004", "0.3"),
        (r"\frac{\sqrt{3}}{2}", r"\frac{3}{2\sqrt{3}}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        (r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"\text{5}", "5"),
        (r"\mathbf{5}", "5"),
        ("{5}", "5"),
        ("5.", "5"),
        ("$5$", "5"),
        (r"\(5\)", "5"),
        (r"\boxed{5}", "5"),
        (r"\frac{a}{b}", "a/b"),
        (r"\dfrac34", "0.75"),
        (r"{3 \over 4}", "3/4"),
        ("3 million", "3000000"),
        (r"1.5 \text{ million}", "1,500,000"),
        ("two", "two"),
        ("100,200", "100, 200"),
        ("n=1, 4, 6", "1,4,6"),
        ("(3,-2)", "x=3, y=-2"),
        (r"\infty", "∞"),
        (r"+\infty", r"\infty"),
        (r"-\infty", "-∞"),
        (r"\text{Monday, Tuesday}", "Tuesday, Monday"),
        (r"3 \text{ apples}", "3"),
        ("3 apples and", "3 apples and"),
        (
            r"r=\begin{pmatrix}1\\2\end{pmatrix}+t\begin{pmatrix}3\\4\end{pmatrix}",
            r"r=\begin{pmatrix}1\\2\end{pmatrix}+t\begin{pmatrix}3\\4\end{pmatrix}",
        ),
        ("c_1 e^{2t}", "c_1e^{2t}"),
        (r"\frac{7}{2}\text{ cm}", "3.5"),
        (r"10\pi \text{ cm}^2", r"10\pi"),
        (r"6\sqrt{2}\text{ m}", r"6\sqrt2"),
        ("x^2+y^2=25", "y^2+x^2=25"),
        ("(x-1)^2+(y-2)^2=9", "x^2-2x+1+y^2-4y+4=9"),
        (r"\lfloor 2.5\rfloor", "2"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"),
        (r"-\frac12", r"\frac{1}{-2}"),
        ("0.5", ".5"),
        ("+5", "5"),
        ("1/2", r"\frac{2}{4}"),
        (r"\frac{2}{3}\pi", r"\frac{2\pi}{3}"),
        (r"2\cdot 3", "6"),
        (r"$\frac{3}{4}$ hours", "3/4"),
        (r"\text{(1, 2)}", "(1,2)"),
        ("(1, 2), (3, 4)", "(3,4),(1,2)"),
        (r"\{(1,2),(3,4)\}", "(1,2),(3,4)"),
        ("1 < x < 2", "(1,2)"),
        (r"x\geq 5", r"[5,\infty)"),
        (r"[5,+\infty)", r"[5,\infty)"),
        ("2,000", "2000"),
        (r"\frac{10}{3} \approx 3.33", r"\frac{10}{3}"),
    ],
)
def test_one_answer_in_two_spellings(one, other):
    assert judged(one, other) is judged(other, one) is True
    assert judged(one, other, "lenient") is True
    assert exact_verdict(one, other) is not False


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1=2", "5"),
        ("1=2", "x=3"),
        ("1=2", "2=3"),
        ("0=0", "x=x"),
        ("x=x", "y=y"),
        ("1=2", r"\emptyset"),
        ("(2,1)", "x=1,y=2"),
        ("(2,1)", "(1,2)"),
        ("[1,2]", "(1,2)"),
        ("[1,2)", "(1,2]"),
        (r"\{1,2\}", "(1,2)"),
        ("(1,2)", "(1,2,3)"),
        ("1,2", "1,2,2"),
        ("3", "3,4"),
        (r"1.67\times10^{-27}", r"9.11\times10^{-31}"),
        ("2^{-70}", "2^{-71}"),
        ("10^{-20}", "10^{-21}"),
        (r"\frac{1}{90!}", r"\frac{1}{91!}"),
        ("0.0000001", "0.0000002"),
        ("1e-9", "2e-9"),
        ("0.0", "10^{-8}"),
        ("0", "10^{-20}"),
        ("1+10^{-20}", "1"),
        ("1+2^{-80}", "1+2^{-81}"),
        ("e^{-50}", "e^{-51}"),
        (r"\pi+10^{-18}", r"\pi"),
        ("x+10^{-20}", "x"),
        ("3.14", r"\pi"),
        ("0.33", "1/3"),
        ("0.667", "2/3"),
        ("33.3", "100/3"),
        ("QRS", "SRQ"),
        ("salt", "last"),
        ("on", "no"),
        ("cat", "act"),
        ("listen", "silent"),
        ("BCA", "ABC"),
        ("5 cm", "5 m"),
        ("5 kg", "5 cm"),
        ("5 cm", "5 cm^2"),
        (r"\$5", "€5"),
        ("50 cents", r"\$50"),
        (r"20\%", "0.02"),
        ("20%", "2"),
        (r"60^\circ", r"30^\circ"),
        (r"45^\circ", r"\pi"),
        ("-5", "5"),
        ("1/2", "2"),
        ("not 5", "5"),
        ("5 or 6", "5"),
        ("5 and not 6", "5"),
        ("5 (or 6)", "5"),
        ("1 of 5", "5"),
        ("1 of 5", "1"),
        ("5 or 6", "6"),
        ("x=5", "x=6"),
        ("x=5", "y=5"),
        ("a=1,b=2", "a=2,b=1"),
        ("y=2x+1", "y=2x-1"),
        ("y=2x+1", "y=x+1"),
        ("2x+y=3", "2x+y=4"),
        ("x>3", "x<3"),
        ("x>3", r"x\ge 3"),
        ("x>3", "3"),
        ("(0,1)", "x>0"),
        (r"(-\infty,4]", "x<4"),
        (r"\mathbb{R}", r"\mathbb{Q}"),
        (r"\mathbb{Z}", r"\mathbb{N}"),
        ("x^2+1", "y^2+1"),
        ("f(x)", "f(y)"),
        ("g(x)", "f(x)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\emptyset", "0"),
        (r"\emptyset", r"\{0\}"),
        ("no solution", "0"),
        ("no solution", "x=1"),
        ("none", "0"),
        ("A", "B"),
        ("(A)", "(B)"),
        ("A. 5", "B. 5"),
        ("A, B", "A"),
        ("True", "false"),
        ("yes", "no"),
        ("east", "west"),
        ("3:2", "2:3"),
        ("4:15", "9:15"),
        ("2:30 AM", "2:30 PM"),
        ("745_9", "745_8"),
        ("745_9", "608"),
        (r"0.\overline{3}", "0.3"),
        (r"0.\overline{63}", r"0.\overline{36}"),
        ("0.9", r"0.\overline{9}"),
        ("27", "2,7"),
        ("4165", "41,65"),
        ("1,00", "100"),
        ("29", "2,9"),
        ("2 11/3", r"\frac{11}{3}"),
        ("64", r"\pm 64"),
        (r"\sqrt{2}", r"\pm\sqrt{2}"),
        (r"\sin x", r"\cos x"),
        (r"\sin(2x)", r"2\sin x"),
        ("x+1", "x+2"),
        ("x", "2x"),
        ("x^2", "x^3"),
        (r"\ln 2", r"\log_{10}2"),
        (r"2\pi", r"\pi"),
        ("2^{90}", "1237940039285380274899124225"),
        ("10^{50}", "10^{50}+1"),
        ("3+4i", "3-4i"),
        ("i", "1"),
        (r"1, 2, \ldots, n", r"2,4,\ldots,2n"),
        ("5 apples and 6 pears", "5"),
        ("five", "5"),
        ("about 5", "6"),
        ("5 million", "5"),
        ("5 thousand", "5"),
        (r"5\pi", "5"),
        ("5x", "5"),
        ("5x", "x"),
        ("5 mod 7", "5"),
        ("5!", "5"),
        ("5^2", "5"),
        (r"\frac{5}{}", "5"),
        (
            r"r=\begin{pmatrix}5\\1\end{pmatrix}+t\begin{pmatrix}2\\9\end{pmatrix}",
            r"r=\begin{pmatrix}4\\1\end{pmatrix}+t\begin{pmatrix}2\\8\end{pmatrix}",
        ),
        ("1=2", r"r=\begin{pmatrix}1\\2\end{pmatrix}+t\begin{pmatrix}3\\4\end{pmatrix}"),
        ("100001", "100000"),
        ("1000000.1", "1000000"),
        ("99.99", "100"),
        ("nan", "5"),
        ("undefined", "0"),
        (r"\infty", r"-\infty"),
        (r"\infty", "10^{10}"),
        ("100, 201", "100,200"),
        ("x=1", "1, 2"),
        (r"\{1,2,3\}", r"\{1,2\}"),
        ("(1,2),(3,4)", "(2,1),(4,3)"),
        ("2x", "x"),
        ("c_1e^{2t}", "c_2e^{2t}"),
        ("x_1", "x_2"),
        ("a_8", "b_8"),
    ],
)
def test_two_answers(one, other):
    assert judged(one, other) is not True and judged(other, one) is not True
    assert judged(one, other, "lenient") is not True
    assert exact_verdict(one, other) is not True


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3.1416", r"\pi"),
        ("1.732", r"\sqrt{3}"),
        ("33.33", "100/3"),
        ("A", "a"),
        ("6:4", "3:2"),
        ("3:2", "1.5"),
        (r"f(x)=2x+1", "y=2x+1"),
        (r"C. \frac{1}{2}", "0.5"),
    ],
)
def test_what_lenient_pays_and_strict_does_not(one, other):
    assert judged(one, other) is judged(other, one) is False
    assert judged(one, other, "lenient") is judged(other, one, "lenient") is True


@pytest.mark.parametrize(
    "text", ["1=2", "\\frac{", "}{", "", "the answer", "9" * 5000, "\\", "1/0", "{" * 3000]
)
def test_equal_texts_are_equal_whatever_they_say(text):
    assert judged(text, text) is True


def test_integers_are_judged_as_their_forms_are():
    """Plain integers are compared without reading them: the verdict and the rule are the same."""
    texts = ["0", "-0", "7", "007", "-7", "12345678901234567", "-12345678901234567", "70"]
    for one in texts:
        for other in texts:
            short, long = Judge(LEVELS["strict"]), Judge(LEVELS["strict"])
            assert short.compare(one, other) is long.equal(read(one), read(other)), (one, other)
            assert one == other or short.rule == "numbers, exactly"
    assert judged("100", "102", tolerance=0.05) is True


def test_a_tolerance_that_a_benchmark_states():
    assert judged("9.7", "9.8", tolerance=0.05) is True
    assert judged("9.7", "9.8", tolerance=0.005) is False
    assert judged(r"2\pi", "6.3", tolerance=0.01) is True
    assert judged(r"2\pi", "6.9", tolerance=0.01) is False
    assert judged("x=9.7", "x=9.8", tolerance=0.05) is True
    assert judged("1.1e-34", "1.0e-34", tolerance=0.05) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.50", Fraction(2469, 2)),
        ("-\\frac{3}{4}", Fraction(-3, 4)),
        ("2 \\frac{1}{3}", Fraction(7, 3)),
        ("-2 1/3", Fraction(-7, 3)),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("12.\\overline{12}", Fraction(400, 33)),
        ("1.5e3", Fraction(1500)),
        ("2.5 \\times 10^{-3}", Fraction(1, 400)),
        ("10^{-2}", Fraction(1, 100)),
        ("0.0", Fraction(0)),
        ("1/0", None),
        ("4 5/3", None),
        ("1,00", None),
        ("1.2.3", None),
        ("", None),
        ("x", None),
        ("10^{99999}", None),
        ("9" * 1001, None),
    ],
)
def test_numbers_by_hand(text, value):
    number = read_number(text)
    assert (None if number is None else number.value) == value


def test_a_decimal_stands_for_a_value_it_rounds():
    third, six, five = Number(Fraction(1, 3)), read_number("0.333333"), read_number("0.33333")
    assert equal_numbers(six, third, digits=6) and not equal_numbers(five, third, digits=6)
    assert not equal_numbers(read_number("0.333334"), third, digits=6)
    assert not equal_numbers(
        read_number("0.500000001"), Number(Fraction(1, 2)), digits=6
    )  # a half needs no rounding
    assert equal_numbers(read_number("0.1000000000000000055"), read_number("0.1"), digits=6)  # a double of it
    assert leading_number("12 apples") == (Number(Fraction(12)), "apples")


def test_every_unit_of_the_table_is_read():
    for names, basic, factor, power in TABLE:
        for name in names.split():
            unit = read_unit(name)
            assert unit is not None and unit.factor == factor, name
            assert unit.dimensions == (((basic, power),) if basic else ()), name


def test_units_are_multiplied_out():
    assert read_unit("km/h") == read_unit("kilometers per hour") == read_unit("km h^{-1}")
    assert read_unit("square feet") == read_unit("ft^2") == read_unit("sq ft") == read_unit("feet squared")
    assert read_unit("kg \\cdot m/s^2").dimensions == (("kg", 1), ("m", 1), ("s", -2))
    assert read_unit("apples") is read_unit("") is read_unit("^2") is None


def test_a_matching_gives_each_its_own():
    known = lambda same: same is True
    assert matching([[True, True], [True, False]], known)  # the first gives way
    assert not matching([[True, False], [True, False]], known)
    assert matching([], known)
