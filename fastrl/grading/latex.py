"""Normalise LaTeX that looks the same: fractions, spaces, fonts, sizes, matrices, thousands."""

from __future__ import annotations

import re

from fastrl.grading.braces import closing_braces
from fastrl.grading.characters import to_latex

SPACES = re.compile(
    r"(?<!\\)(?:\\[,;:!> ]|\\(?:q?quad|thinspace|enspace|hfill|hspace\{[^{}]*\}|noindent)(?![A-Za-z])|[~$])"
)
THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\[!,;: ]|~|\\thinspace|,\s?\\[!,;:])(?=[0-9]{3}(?![0-9]))")
BRACED_COMMA = re.compile(r"\{\s*([,:;.=])\s*\}")
LEFT = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![A-Za-z])\s*\.?")
STYLES = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hline|centering|normalsize|[lL]arge|LARGE|huge|Huge|small)"
    r"(?![A-Za-z])|\\color\s*\{[^{}]*\}|\\(?:begin|end)\s*\{(?:aligned|align\*?|equation\*?|gathered|split)\}"
)
FONTS = (
    "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "boldsymbol", "bm", "pmb", "mathnormal", "underline",
    "operatorname*", "operatorname", "textrm", "textbf", "textit", "texttt", "textsf", "textnormal", "emph",
    "text", "mbox", "hbox", "mathop", "ensuremath", "vec", "overrightarrow", "boxed", "fbox", "framebox",
)  # fmt: skip
TEXTS = frozenset(
    ("mathrm", "textrm", "textbf", "textit", "texttt", "textsf", "textnormal", "emph", "text", "mbox", "hbox",
     "operatorname", "operatorname*", "mathbf", "mathit", "mathsf", "mathtt")
)  # fmt: skip
FONT = re.compile(rf"\\({'|'.join(re.escape(name) for name in FONTS)})(?![A-Za-z])\s*\{{")
SAME = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leq(?:slant)?|leqq|le)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geq(?:slant)?|geqq|ge)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!=|\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\(?:varnothing|O|empty)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![A-Za-z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![A-Za-z])"), "]"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\(?:cdotp|ast)(?![A-Za-z])"), r"\\cdot "),
    (re.compile(r"\\(?:dots[bcimo]?|ldots|cdots)(?![A-Za-z])"), r"\\ldots "),
    (re.compile(r"\\(?:R|reals)(?![A-Za-z])"), r"\\mathbb{R}"),
    (re.compile(r"\\(?:N)(?![A-Za-z])"), r"\\mathbb{N}"),
    (re.compile(r"\\backslash(?![A-Za-z])"), r"\\setminus "),
    (re.compile(r"\\(?:degree|deg)(?![A-Za-z])"), r"^\\circ "),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)"), r"^\\circ "),
    (re.compile(r"\\sp(?![A-Za-z])\s*"), "^"),
    (re.compile(r"\\(?:infinity)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:epsilon|varepsilon)(?![A-Za-z])"), r"\\epsilon "),
    (re.compile(r"\\varphi(?![A-Za-z])"), r"\\phi "),
    (re.compile(r"(?<![A-Za-z\\])(?:infinity|Infinity)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"(?<![A-Za-z\\])sqrt\s*(?=[({])"), r"\\sqrt"),
    (re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\*\*"), "^"),
)
MATRIX = re.compile(r"\\(begin|end)\s*\{\s*(?:[pbvBV]?(?:small)?matrix|array)\*?\s*\}(?:\s*\{[clr|\s]*\})?")
LAST_ROW = re.compile(r"\\\\\s*(?=\\end\{)")
BARE_FRACTION = re.compile(
    r"\\frac\s*(?:([0-9A-Za-z])\s*([0-9A-Za-z])|([0-9A-Za-z])\s*\{([^{}]*)\}|\{([^{}]*)\}\s*([0-9A-Za-z]))"
)
BARE_ROOT = re.compile(
    r"\\sqrt\s*(\[[^\[\]]*\])?\s*(?:([0-9A-Za-z])|(\\(?:pi|theta|alpha|beta))(?![A-Za-z]))"
)
ROUND_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")
OVER = re.compile(r"\\over(?![A-Za-z])")
LEFT_PLUS = re.compile(r"\+\s*-")
DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2,}|[{}%$,!;])")
ESCAPED_DOLLAR = re.compile(r"\\\$")
PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
DOLLAR = "\x00"
"""Placeholder for an escaped dollar, so that the unescaped ones can be counted."""


def clean(text: str) -> str:
    """Normalise an answer: ASCII LaTeX, one form of each command, single spaces.

    Removes sizes, fonts, math delimiters and spacing commands; keeps the words of \\text{...}, with spaces
    around them. Removes thousands separators that can be nothing else: 17{,}904, 1\\,000, 21,\\!507.
    Applying it again doesn't change how the answer is read. Never raises.
    """
    if PLAIN_NUMBER.fullmatch(text):
        return text
    text = to_latex(text).replace("\\\\boxed", "\\boxed")
    if "\\begin" not in text and "\\\\" in text:
        text = DOUBLED.sub(r"\\", text)  # escaped once too often
    text = money(text)
    text = THOUSANDS.sub("", text)
    text = BRACED_COMMA.sub(r"\1", text)
    text = MATRIX.sub(lambda found: f"\\{found[1]}{{matrix}}", text)
    text = LEFT.sub("", text)
    text = STYLES.sub(" ", text)
    text = unfont(text)
    text = SPACES.sub(" ", text)
    for pattern, spelling in SAME:
        text = pattern.sub(spelling, text)
    text = LAST_ROW.sub(" ", text)
    text = over(text)
    text = BARE_ROOT.sub(lambda found: f"\\sqrt{found[1] or ''}{{{found[2] or found[3]}}}", text)
    text = ROUND_ROOT.sub(r"\\sqrt{\1}", text)
    text = BARE_FRACTION.sub(_fraction, text)
    text = LEFT_PLUS.sub("- ", text)
    text = " ".join(text.split())
    return strip_ends(text)


def money(text: str) -> str:
    """Escape a lone dollar before a number, which means money; other unescaped dollars are delimiters."""
    text = ESCAPED_DOLLAR.sub(DOLLAR, text)
    if text.count("$") == 1:
        text = re.sub(r"\$(?=\s*[0-9.])", DOLLAR, text)
    return text.replace(DOLLAR, "\\$")


def unfont(text: str) -> str:
    r"""Unwrap \mathbf{...}, \text{...} and \boxed{...}; words get spaces around them."""
    if "\\" not in text:
        return text
    closed = closing_braces(text)
    marks: dict[int, tuple[int, str]] = {}
    for found in FONT.finditer(text):
        end = closed.get(found.end() - 1)
        if end is not None:
            space = " " if found[1] in TEXTS else ""
            marks[found.start()] = (found.end(), space)
            marks[end] = (end + 1, space)
    pieces, place = [], 0
    for start in sorted(marks):
        after, space = marks[start]
        pieces += [text[place:start], space]
        place = after
    return "".join([*pieces, text[place:]])


def over(text: str) -> str:
    r"""Rewrite the first {a \over b} or a \over b as \frac{a}{b}."""
    found = OVER.search(text)
    if found is None:
        return text
    start = text.rfind("{", 0, found.start())
    end = text.find("}", found.end())
    if start < 0 or end < 0:
        return f"\\frac{{{text[: found.start()].strip()}}}{{{text[found.end() :].strip()}}}"
    top, bottom = text[start + 1 : found.start()].strip(), text[found.end() : end].strip()
    return f"{text[:start]}\\frac{{{top}}}{{{bottom}}}{text[end + 1 :]}"


def strip_ends(text: str) -> str:
    """Strip outer spaces, markup, quotes and braces around the whole text, and punctuation at its end."""
    while True:
        before = text
        text = text.strip().strip("*`").strip()
        if text.endswith((".", ",", ";", ":")) and not text.endswith(("..", "\\.", "\\,", "\\;", "\\:")):
            text = text[:-1].rstrip()
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        if text.startswith("{") and text.endswith("}") and closing_braces(text).get(0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


def _fraction(found: re.Match[str]) -> str:
    top = found[1] or found[3] or found[5]
    bottom = found[2] or found[4] or found[6]
    return f"\\frac{{{top}}}{{{bottom}}}"
