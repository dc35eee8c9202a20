"""Units and currencies: the table of spellings with their factors in basic units, and a parser."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]
F = Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: its factor in basic units, and their powers. Without dimensions: a word for counted things."""

    factor: Fraction
    dimensions: Dimensions


# name: (all spellings, basic unit, factor, power)
TABLE: tuple[tuple[str, str, Fraction, int], ...] = (
    ("m meter meters metre metres", "m", F(1), 1),
    ("km kilometer kilometers kilometre kilometres", "m", F(1000), 1),
    ("cm centimeter centimeters centimetre centimetres", "m", F(1, 100), 1),
    ("dm decimeter decimeters", "m", F(1, 10), 1),
    ("mm millimeter millimeters millimetre millimetres", "m", F(1, 1000), 1),
    ("\\mum micrometer micrometers micron microns um", "m", F(1, 10**6), 1),
    ("nm nanometer nanometers nanometre nanometres", "m", F(1, 10**9), 1),
    ("in inch inches", "m", F(254, 10000), 1),
    ("ft foot feet", "m", F(3048, 10000), 1),
    ("yd yard yards", "m", F(9144, 10000), 1),
    ("mi mile miles", "m", F(1609344, 1000), 1),
    ("s sec secs second seconds", "s", F(1), 1),
    ("ms millisecond milliseconds", "s", F(1, 1000), 1),
    ("min mins minute minutes", "s", F(60), 1),
    ("h hr hrs hour hours", "s", F(3600), 1),
    ("day days", "s", F(86400), 1),
    ("week weeks", "s", F(604800), 1),
    ("month months", "month", F(1), 1),
    ("yr yrs year years", "month", F(12), 1),
    ("kg kilogram kilograms", "kg", F(1), 1),
    ("g gram grams", "kg", F(1, 1000), 1),
    ("mg milligram milligrams", "kg", F(1, 10**6), 1),
    ("oz ounce ounces", "kg", F(45359237, 1600000000), 1),
    ("lb lbs", "kg", F(45359237, 100000000), 1),
    ("ton tons tonne tonnes", "ton", F(1), 1),
    ("L l liter liters litre litres", "m", F(1, 1000), 3),
    ("mL ml milliliter milliliters millilitre millilitres", "m", F(1, 10**6), 3),
    ("gal gallon gallons", "gallon", F(1), 1),
    ("cup cups", "cup", F(1), 1),
    ("N newton newtons", "N", F(1), 1),
    ("kN", "N", F(1000), 1),
    ("J joule joules", "J", F(1), 1),
    ("kJ kilojoule kilojoules", "J", F(1000), 1),
    ("MJ", "J", F(10**6), 1),
    ("cal calorie calories", "cal", F(1), 1),
    ("kcal", "cal", F(1000), 1),
    ("eV", "eV", F(1), 1),
    ("keV", "eV", F(1000), 1),
    ("MeV", "eV", F(10**6), 1),
    ("GeV", "eV", F(10**9), 1),
    ("W watt watts", "W", F(1), 1),
    ("kW kilowatt kilowatts", "W", F(1000), 1),
    ("MW", "W", F(10**6), 1),
    ("Pa pascal pascals", "Pa", F(1), 1),
    ("kPa", "Pa", F(1000), 1),
    ("MPa", "Pa", F(10**6), 1),
    ("GPa", "Pa", F(10**9), 1),
    ("atm", "atm", F(1), 1),
    ("Hz hertz", "Hz", F(1), 1),
    ("kHz", "Hz", F(1000), 1),
    ("MHz", "Hz", F(10**6), 1),
    ("GHz", "Hz", F(10**9), 1),
    ("V volt volts", "V", F(1), 1),
    ("mV", "V", F(1, 1000), 1),
    ("kV", "V", F(1000), 1),
    ("ampere amperes amp amps", "A", F(1), 1),
    ("mA", "A", F(1, 1000), 1),
    ("coulomb coulombs", "C", F(1), 1),
    ("ohm ohms \\Omega", "ohm", F(1), 1),
    ("K kelvin kelvins", "K", F(1), 1),
    ("mol mole moles", "mol", F(1), 1),
    ("rad radian radians", "rad", F(1), 1),
    ("^\\circ degree degrees deg", "degree", F(1), 1),
    ("^\\circC celsius", "celsius", F(1), 1),
    ("^\\circF fahrenheit", "fahrenheit", F(1), 1),
    ("\\$ usd dollar dollars buck bucks", "dollar", F(1), 1),
    ("\\cent cent cents", "dollar", F(1, 100), 1),
    ("\u20ac eur euro euros \\euro", "euro", F(1), 1),
    ("\u00a3 gbp \\pounds", "pound sterling", F(1), 1),
    ("\u00a5 yen jpy", "yen", F(1), 1),
    ("yuan rmb cny \u5143 \u4eba\u6c11\u5e01", "yuan", F(1), 1),
    ("\u20b9 rupee rupees rs inr", "rupee", F(1), 1),
    ("\u20a9 won", "won", F(1), 1),
    ("\u20bd ruble rubles rouble roubles", "ruble", F(1), 1),
    ("unit units", "", F(1), 0),
    # scripts without spaces
    ("\u7c73", "m", F(1), 1),
    ("\u5398\u7c73", "m", F(1, 100), 1),
    ("\u5343\u7c73 \u516c\u91cc", "m", F(1000), 1),
    ("\u79d2", "s", F(1), 1),
    ("\u5206\u949f", "s", F(60), 1),
    ("\u5c0f\u65f6", "s", F(3600), 1),
    ("\u5929 \u65e5", "s", F(86400), 1),
    ("\u5ea6", "degree", F(1), 1),
    ("\u514b", "kg", F(1, 1000), 1),
    ("\u5343\u514b \u516c\u65a4", "kg", F(1), 1),
)
"""Rows: spellings separated by spaces, basic unit, factor, power of the basic unit."""
EXACT_CASE_NAMES = "m s h g L l N J W V K Pa Hz A C kN kJ MJ mA kV mV mW MW kW"
EXACT_CASE = frozenset(EXACT_CASE_NAMES.split())
SPELLINGS: dict[str, Unit] = {
    name: Unit(factor, ((basic, power),) if basic else ())
    for names, basic, factor, power in TABLE
    for name in names.split()
}
SPEED = (("m", 1), ("s", -1))
SPELLINGS |= {
    "mph": Unit(F(44704, 100000), SPEED),
    "kmh": Unit(F(5, 18), SPEED),
    "kph": Unit(F(5, 18), SPEED),
}
DEGREE = SPELLINGS["degree"]
NUMBER_WORDS = {
    "hundred": F(100), "thousand": F(1000), "million": F(10**6), "billion": F(10**9), "trillion": F(10**12),
    "dozen": F(12),
}  # fmt: skip
MONEY = re.compile(r"(?:US|A|C|HK)?\\\$|[\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd]|Rs\.?(?=\s*[0-9])|USD|EUR|GBP")
PIECE = re.compile(
    r"\s*(?:(?P<name>\^\\circ\s*[CF](?![A-Za-z])|\^\\circ|\\(?:mu\s*m(?![A-Za-z])|Omega|\$|cent|euro|pounds)"
    r"|[A-Za-z]+|[^\x00-\x7f]+)"
    r"\s*(?:\^\s*\{?\s*(?P<power>-?[0-9]{1,2})\s*\}?|(?P<squared>squared|cubed)(?![A-Za-z]))?"
    r"|(?P<operator>\\cdot|\\times|\*|/|\\div))"
)
WORD = re.compile(r"[A-Za-z][A-Za-z'\-]+\.?")
CHANGES_THE_NUMBER = """
not no or and nor times more less than percent percentage hundred thousand million billion dozen out if
when half pi squared cubed mod to from plus minus over choose factorial sin cos tan sec csc cot log ln
exp sqrt gcd lcm max min det but except unless instead between greater fewer only least most either
neither both per without excluding infinity infinite undefined each every another other odd even third
quarter quarters thirds fifths tenths hundredths is are was be equals wrong incorrect since because
"""
NO_NOUN = frozenset(CHANGES_THE_NUMBER.split())
MOST_WORDS = 6
SMALL = frozenset(("in", "a", "an", "on", "at", "by", "for", "the", "of", "to"))


def read_unit(text: str) -> Unit | None:
    r"""Parse a cleaned text as a unit: "km/h", "m s^{-2}", "square feet", "miles per hour".

    None: it has a word that the table lacks.
    """
    factor, powers = F(1), dict[str, int]()
    place, sign, pending = 0, 1, 1
    seen = False
    while place < len(text):
        found = PIECE.match(text, place)
        if found is None or found.end() == place:
            return None
        place = found.end()
        if found["operator"]:
            sign = -1 if found["operator"] in ("/", "\\div") else 1
            continue
        name = found["name"].replace(" ", "")
        word = name.lower()
        if word == "per":
            sign = -1
            continue
        if word in ("square", "sq", "cubic", "cu"):
            pending = 2 if word.startswith("s") else 3
            continue
        unit = spelt(name)
        if unit is None:
            return None
        power = int(found["power"] or 1) * sign * pending
        if found["squared"]:
            power *= 2 if "squared" in found["squared"] else 3
        factor *= unit.factor**power if abs(power) <= 6 else F(1)
        for basic, each in unit.dimensions:
            powers[basic] = powers.get(basic, 0) + each * power
        seen, pending = True, 1
    if not seen:
        return None
    return Unit(factor, tuple(sorted((basic, power) for basic, power in powers.items() if power)))


def spelt(name: str) -> Unit | None:
    """Return the unit with this name or None; case matters for the names in EXACT_CASE and single letters."""
    if name in SPELLINGS:
        return SPELLINGS[name]
    low = name.lower()
    return SPELLINGS.get(low) if low not in EXACT_CASE and len(low) > 1 else None


def is_noun(text: str) -> bool:
    """Return whether the text after a number only names the things counted: "apples left", "bolts"."""
    words = text.split()
    return 0 < len(words) <= MOST_WORDS and words[0] not in SMALL and all(
        (WORD.fullmatch(word) is not None and len(word) > 2 and word.lower().rstrip(".") not in NO_NOUN)
        or word in SMALL
        for word in words
    )  # fmt: skip
