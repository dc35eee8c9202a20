"""Parse an answer's text into a form: try the kinds in turn; a text that fits none is an expression."""

from __future__ import annotations

import re
from functools import lru_cache

from fastrl.grading.braces import enclosed, split, tokens
from fastrl.grading.forms import (
    Based,
    Empty,
    Expression,
    Form,
    Grid,
    Group,
    Listing,
    Named,
    Option,
    Quantity,
    Ratio,
    Relation,
    Words,
)
from fastrl.grading.latex import clean
from fastrl.grading.numbers import leading_number, read_number
from fastrl.grading.units import DEGREE, MONEY, NUMBER_WORDS, Unit, is_noun, read_unit

LONGEST = 2000
"""Most characters of an answer that is parsed; a longer one equals only its own text."""
DEEPEST = 12
"""Deepest nesting of brackets that is parsed."""

EMPTY = re.compile(
    r"(?:\\emptyset|\\\{\s*\\\}|\{\s*\}|\\\{\s*\\emptyset\s*\\\})"
    r"|(?:there\s+(?:is|are|exists?)\s+)?no\s+(?:[a-z\-]+\s+){0,2}"
    r"(?:solutions?|roots?|answers?|such\s+[a-z]+)"
    r"(?:\s+exists?)?|(?:the\s+)?empty\s*set",
    re.IGNORECASE,
)
OPTION = re.compile(
    r"(?:(?i:option|choice|answer)\s*:?\s*)?"
    r"(?:\(\s*([A-J])\s*\)\s*[.:]?|([A-J])\s*\)|([A-J])\s*[.:](?=\s)|([A-J])(?=\s*$)|([A-J])\s+-\s)\s*(.*)",
    re.DOTALL,
)
PREFACE = re.compile(r"^(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*:?\s*", re.IGNORECASE)
APPROXIMATELY = re.compile(
    r"^(?:\\approx|\\sim|~|about|approximately|roughly|exactly|precisely)\s*", re.IGNORECASE
)
JOINED = re.compile(
    r"\s*[,;]?\s*(?<![A-Za-z\\])(and|or)(?![A-Za-z])\s*|\s*\\(?:wedge|land|vee|lor)(?![A-Za-z])\s*",
    re.IGNORECASE,
)
FUNCTION_NAMES = """
sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan ln log lg exp sqrt gcd lcm max min det mod
"""
FUNCTIONS = frozenset(FUNCTION_NAMES.split())
WORD = re.compile(r"[^\W\d_][^\W\d_'\-]*")
COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
ORDER = re.compile(r"[A-Z]{2,}")
PRODUCT = re.compile(r"[xyzuvw]{2,}|[a-df-hj-np-z]{2}|[A-Za-z]")
RATIO = re.compile(r"(.+?)\s*(AM|PM|am|pm|[ap]\.m\.?)?$")
CLOCK = re.compile(r"[0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?")
BASED = re.compile(r"([0-9A-F]+)\s*_\s*(?:\{\s*(?:([0-9]{1,2})|([a-z]+))\s*\}|([0-9]))")
BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
         "eleven": 11, "twelve": 12, "sixteen": 16}  # fmt: skip
THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
SIGNS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\approx", "\\equiv"))
# a name with its marks, but no calculation: x_1, f'(x), S_{ABC}, |AB|, \\sin \\theta, \\frac{dy}{dx}
NAME = re.compile(
    r"(?:\\[A-Za-z]+|[A-Za-z](?![A-Za-z]{12})|['|(){},:\s])*[A-Za-z](?:\\[A-Za-z]+|[A-Za-z]|['|(){},:\s])*"
)
SUBSCRIPT = re.compile(r"_\s*(?:\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z0-9])")
DERIVATIVE = re.compile(r"\\frac\{d[A-Za-z]?\}\{d[A-Za-z]\}|\\partial")
CALCULATION = re.compile(
    r"\\(?:frac|sqrt|cdot|times|div|begin|sum|int|prod|pm|mp|cup|cap|binom|infty|pi)(?![A-Za-z])"
)
LONGEST_NAME = 40
WORDY_NAME = re.compile(r"[A-Za-z][A-Za-z ]{3,60}")
UNIT_BEHIND = re.compile(
    r"^(.*(?:[^\\A-Za-z\s^_{(/*+-]|\\[A-Za-z]+))\s*"
    r"(\^\\circ\s*[CF]?|(?<=[\s}])(?:square |cubic |sq )?[A-Za-z]{1,12}"
    r"(?:\s*\^\s*\{?[23]\}?)?(?:\s*/\s*[A-Za-z]{1,8}(?:\s*\^\s*\{?[23]\}?)?)?)$"
)
PROSE_AFTER_NUMBER = re.compile(r"(-?[0-9][0-9,]*(?:\.[0-9]+)?)\.\s+(?=[A-Z][a-z]+\s+[a-z]+)")
DEGREES = re.compile(r"((?<![0-9.])[0-9]+(?:\.[0-9]+)?|\([^()]*\))\s*\^\\circ\s*")
PERCENT = re.compile(r"(?:%|percent(?:age)?|pct|per\s?cent)(?:\s+(?:points?|of\b.*))?", re.IGNORECASE)
FRENCH = re.compile(r"(\]|\[)([^\[\]]+)(\[|\])")
PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
IN_SET = re.compile(r"^\{?[A-Za-z]\}?\s*\\in(?![A-Za-z])\s*")


@lru_cache(maxsize=1 << 14)
def read(text: str) -> Form:
    """Parse an answer's text, as written in a box or after a phrase, into a form. Never raises."""
    if len(text) > LONGEST:
        return Words(text)
    return read_clean(clean(text), 0)


def read_clean(text: str, depth: int) -> Form:
    if depth > DEEPEST or not text:
        return Expression(text)
    text = APPROXIMATELY.sub("", PREFACE.sub("", text))
    if EMPTY.fullmatch(text):
        return Empty()
    found = read_plain(text, depth)
    if found is not None:
        return found
    for reader in (
        read_words,
        read_french,
        read_list,
        read_brackets,
        read_plus_minus,
        read_relation,
        read_grid,
    ):
        form = reader(text, depth)
        if form is not None:
            return form
    return read_expression(text)


def read_plain(text: str, depth: int) -> Form | None:
    """Parse forms that no separator splits: options, quantities, ratios, digits in a base."""
    option = OPTION.fullmatch(text)
    if option is not None:
        letter = next(each for each in option.groups()[:5] if each)
        says = option[6].strip()
        return Option(letter, read_clean(says, depth + 1) if says else None)
    prose = PROSE_AFTER_NUMBER.match(text)
    if prose is not None:  # the answer, then a reason
        return read_quantity(prose[1])
    based = BASED.fullmatch(text)
    if based is not None:
        base = int(based[2] or based[4] or BASES.get(based[3] or "", 0))
        if base:
            return Based(based[1].lstrip("0") or "0", base)
    return read_quantity(text) or read_ratio(text)


def read_quantity(text: str) -> Quantity | None:
    """Parse a number with a currency sign before it, or a unit, a percent sign or a noun after it."""
    money = None
    sign = ""
    rest = text
    if rest[:1] in "+-":
        sign, rest = rest[:1], rest[1:].lstrip()
    prefix = MONEY.match(rest)
    if prefix is not None:
        name = re.sub(r"^(?:US|A|C|HK)(?=\\)", "", prefix[0]).rstrip(".")
        money, rest = read_unit(name), rest[prefix.end() :].lstrip()
    found = leading_number(sign + rest)
    if found is None:
        return None
    number, behind = found
    if not behind:
        return Quantity(number, money)
    word, _, more = behind.partition(" ")
    if word.lower() in NUMBER_WORDS:
        number, behind = number.times(NUMBER_WORDS[word.lower()]), more.strip()
        if not behind:
            return Quantity(number, money)
    behind = behind.lstrip("-~").strip() if not behind[1:2].isdigit() else behind
    if PERCENT.fullmatch(behind):
        return Quantity(number, money, percent=True)
    unit = read_unit(behind.rstrip("."))
    if unit is not None:
        return Quantity(number, unit if money is None else money)
    if is_noun(behind):
        return Quantity(number, money)
    head, _, noun = behind.partition(" ")
    unit = read_unit(head) if is_noun(noun) else None  # 5 cm long
    return None if unit is None else Quantity(number, unit)


def read_ratio(text: str) -> Ratio | None:
    if ":" not in text and " to " not in text:
        return None
    body = RATIO.fullmatch(text)
    if body is None:
        return None
    pieces = re.split(r"\s*:\s*|\s+to\s+", body[1])
    parts = [read_number(piece) for piece in pieces]
    if len(parts) < 2 or any(part is None for part in parts):
        return None
    half = (body[2] or "").replace(".", "").lower()
    clock = CLOCK.fullmatch(body[1].replace(" ", "")) is not None
    return Ratio(tuple(part for part in parts if part is not None), clock, half)


def read_words(text: str, depth: int) -> Words | None:
    """Parse a text of words without anything to calculate, or prose with numbers in it."""
    bare = COMMAND.sub(" ", text)
    words = [word for word in WORD.findall(bare) if word.lower() not in FUNCTIONS]
    joints = {"and", "or", "if", "for", "all"}
    prose = [
        word for word in words if len(word) > 2 and word.lower() not in joints and not PRODUCT.fullmatch(word)
    ]
    names = re.fullmatch(r"[^\W\d_]+(?:[\s,'\-.&!?]+[^\W\d_]+)*[.!?]?", text)
    if ORDER.fullmatch(text):
        return Words(text, ordered=True)
    if names is not None and "," not in text and not re.search(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])", text):
        if len(words) == 1 and (PRODUCT.fullmatch(words[0]) or words[0].lower() in FUNCTIONS):
            return None
        if words and any(len(word) > 1 for word in words):
            return Words(" ".join(text.lower().strip(" .!?").split()))
    spoken = len(prose) >= 2 and not re.search(r"(?<!\\)[=<>]|\\(?:in|le|ge|cup)(?![A-Za-z])", text)
    return Words(" ".join(text.lower().strip(" .!?").split())) if spoken and not _is_word_list(text) else None


def _is_word_list(text: str) -> bool:
    """Return whether a text lists short names: Monday, Tuesday and Friday."""
    pieces = [
        piece.strip()
        for piece in re.split(r",|;|(?<![A-Za-z])and(?![A-Za-z])|(?<![A-Za-z])or(?![A-Za-z])", text)
    ]
    pieces = [piece for piece in pieces if piece]
    return len(pieces) > 1 and all(len(piece.split()) <= 2 for piece in pieces)


def read_list(text: str, depth: int) -> Form | None:
    """Parse values separated by commas, semicolons, "and" or "or"."""
    joints = {(found[1] or "and").lower() for found in JOINED.finditer(text)}
    parted = JOINED.sub(" ; ", text)
    if re.search(r"[,;]\s", parted):  # 1,234, 5: the comma without a space separates thousands
        parted = THOUSANDS.sub("", parted)
    pieces = [piece for piece in split(parted, frozenset(",;")) if piece]
    if len(pieces) < 2:
        return read_clean(pieces[0], depth + 1) if len(pieces) == 1 and pieces[0] != text else None
    items = [read_clean(piece, depth + 1) for piece in pieces]
    joined = "or" if "or" in joints else "and" if "and" in joints else ","
    if all(isinstance(item, Option) and item.says is None for item in items):
        return Listing(tuple(items), joined=joined)
    first = items[0]
    if isinstance(first, Named) and not any(isinstance(item, Named | Relation) for item in items[1:]):
        return Named(first.name, _flat([first.value, *items[1:]], joined))
    names = {item.name for item in items if isinstance(item, Named)}
    if len(names) == 1 and all(isinstance(item, Named) for item in items):
        return Named(names.pop(), _flat([item.value for item in items if isinstance(item, Named)], joined))
    return _flat(items, joined)


def _flat(items: list[Form], joined: str) -> Listing:
    """Merge the bare lists within a list, as in x = 1, ±3."""
    flat: list[Form] = []
    for item in items:
        flat += item.items if isinstance(item, Listing) and not item.braces else [item]
    return Listing(tuple(flat), joined=joined)


def read_french(text: str, depth: int) -> Form | None:
    """Parse an interval in French notation: ]0, 1[ is (0, 1)."""
    found = FRENCH.fullmatch(text)
    if found is None:
        return None
    if found[1] + found[3] == "[]":
        return None
    opening = "(" if found[1] == "]" else "["
    closing = ")" if found[3] == "[" else "]"
    ends = tuple(read_clean(piece, depth + 1) for piece in split(found[2], frozenset(",;")) if piece)
    return Group(opening, ends, closing) if len(ends) == 2 else None


def read_brackets(text: str, depth: int) -> Form | None:
    whole = enclosed(text)
    if whole is None:
        return None
    opening, inside, closing = whole
    if opening == "\\{":
        return read_set(inside, depth)
    pieces = [piece for piece in split(inside, frozenset(",;")) if piece]
    if len(pieces) == 1:
        return read_clean(pieces[0], depth + 1) if opening in ("(", "[") else None
    items = tuple(read_clean(piece, depth + 1) for piece in pieces)
    return Group(opening, items, closing) if items else None


def read_set(inside: str, depth: int) -> Form:
    built = split(inside, frozenset("|:"))
    if len(built) == 2 and not read_ratio(inside):
        return read_clean(built[1], depth + 1)
    items = [read_clean(piece, depth + 1) for piece in split(inside, frozenset(",;")) if piece]
    flat: list[Form] = []
    for item in items:
        flat += item.items if isinstance(item, Listing) and not item.braces else [item]
    return Listing(tuple(dict.fromkeys(flat)), braces=True) if flat else Empty()


def read_plus_minus(text: str, depth: int) -> Form | None:
    r"""Parse a \pm b as a list of both values."""
    if PLUS_MINUS.search(text) is None or any(sign in text for sign in "=<>"):
        return None
    plus = PLUS_MINUS.sub(lambda found: "+" if found[1] == "pm" else "-", text)
    minus = PLUS_MINUS.sub(lambda found: "-" if found[1] == "pm" else "+", text)
    return Listing(tuple(read_clean(each.lstrip("+ ").strip(), depth + 1) for each in (plus, minus)))


def read_relation(text: str, depth: int) -> Form | None:
    """Parse equations and inequalities, a name with its value, x in a set."""
    member = IN_SET.match(text)
    if member is not None:
        return read_clean(text[member.end() :], depth + 1)
    parts = split(text, SIGNS)
    if len(parts) < 2 or not all(parts):
        return None
    signs = _signs(text)
    if all(sign in ("=", "\\approx") for sign in signs):
        first, last = parts[0], parts[-1]
        names = enclosed(first)
        if names is not None and names[0] == "(" and len(split(names[1], frozenset(","))) > 1:
            return _named_tuple(split(names[1], frozenset(",")), read_clean(last, depth + 1))
        if is_name(first) and not is_name_only_of_prose(last):
            return Named(_name(first), read_clean(last, depth + 1))
        if signs == ("\\approx",) and read_number(last) is not None:  # the value, then its approximation
            return read_clean(first, depth + 1)
        if len(parts) == 2 and is_name(last) and read_number(first) is not None:
            return Named(_name(last), read_clean(first, depth + 1))
    return Relation(tuple(parts), signs)


def _signs(text: str) -> tuple[str, ...]:
    return tuple(token for _, token, depth in tokens(text) if depth == 0 and token in SIGNS)


def _named_tuple(names: list[str], value: Form) -> Form:
    if isinstance(value, Group) and len(value.items) == len(names):
        pairs = zip(names, value.items, strict=True)
        return Listing(tuple(Named(_name(name), item) for name, item in pairs))
    return Named(",".join(_name(name) for name in names), value)


def is_name(text: str) -> bool:
    bare = DERIVATIVE.sub("D", SUBSCRIPT.sub("", text))
    marked = (
        len(bare) <= LONGEST_NAME and CALCULATION.search(bare) is None and NAME.fullmatch(bare) is not None
    )
    return marked or (WORDY_NAME.fullmatch(text) is not None and not set(text.lower().split()) & FUNCTIONS)


def is_name_only_of_prose(text: str) -> bool:
    return WORDY_NAME.fullmatch(text) is not None and len(text.split()) > 3


def _name(text: str) -> str:
    return re.sub(r"[\s{}]", "", text)


def read_grid(text: str, depth: int) -> Form | None:
    begin, end = "\\begin{matrix}", "\\end{matrix}"
    if not (text.startswith(begin) and text.endswith(end)) or text.count(begin) != 1:
        return None
    inside = text[len(begin) : -len(end)]
    rows = [
        tuple(read_clean(cell, depth + 1) for cell in split(row, frozenset("&")))
        for row in split(inside, frozenset(("\\\\",)))
        if row
    ]
    if not rows or len({len(row) for row in rows}) != 1:
        return None
    if len(rows) == len(rows[0]) == 1:
        return rows[0][0]
    if len(rows[0]) == 1:
        return Group("column", tuple(row[0] for row in rows), "column")
    return Group("row", rows[0], "row") if len(rows) == 1 else Grid(tuple(rows))


def read_expression(text: str) -> Expression:
    """Return LaTeX for algebra; split off a unit after it, and convert angles in degrees to radians."""
    unit: Unit | None = None
    money = MONEY.match(text)
    if money is not None:
        text = text[money.end() :].lstrip()
    behind = UNIT_BEHIND.match(text)
    if behind is not None:
        named = read_unit(behind[2])
        letters = re.search(r"(?<!\\)[A-Za-z]", COMMAND.sub(" ", behind[1]))
        if named == DEGREE and TRIGONOMETRIC.search(behind[1]):
            named = None
        if named is not None and (letters is None or len(behind[2].split("^")[0].strip()) > 2):
            return Expression(behind[1].strip(), named)
    return Expression(DEGREES.sub(r"(\\frac{\\pi \\cdot \1}{180})", text), unit)
