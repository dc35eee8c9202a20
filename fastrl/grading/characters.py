"""Replace Unicode characters by LaTeX and ASCII: digits, signs, fractions, Greek letters, punctuation."""

# ruff: noqa: RUF001
from __future__ import annotations

import re
import unicodedata

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ϑ": "theta", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho",
    "σ": "sigma", "τ": "tau", "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "κ": "kappa",
    "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
COMMANDS = {
    "×": "times", "✕": "times", "÷": "div", "·": "cdot", "⋅": "cdot", "∙": "cdot", "±": "pm", "∓": "mp",
    "≤": "le", "⩽": "le", "≦": "le", "≥": "ge", "⩾": "ge", "≧": "ge", "≠": "ne", "≈": "approx",
    "≡": "equiv", "∞": "infty", "∪": "cup", "∩": "cap", "∈": "in", "∉": "notin", "∅": "emptyset",
    "⌀": "emptyset", "∖": "setminus", "∠": "angle", "△": "triangle", "∑": "sum", "∏": "prod", "∫": "int",
    "→": "to", "⟨": "langle", "〈": "langle", "⟩": "rangle", "〉": "rangle", "…": "ldots", "⋯": "cdots",
    "∧": "wedge", "∨": "vee", "⊂": "subset", "⊆": "subseteq", "∂": "partial", "∇": "nabla",
}  # fmt: skip
LETTERS = {"ℝ": "R", "ℤ": "Z", "ℚ": "Q", "ℕ": "N", "ℂ": "C"}
PLAIN = {
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "﹣": "-", "⁄": "/", "∕": "/", "∶": ":",
    "、": ", ", "。": ". ", "，": ", ", "；": "; ", "：": ":", "“": '"', "”": '"', "‘": "'", "’": "'",
    "′": "'", "‵": "'", "∣": "|", "∥": "|", "∗": "*", "°": "^\\circ ", "º": "^\\circ ", "℃": "^\\circ C",
    "℉": "^\\circ F", "⟦": "[", "⟧": "]", "【": "[", "】": "]", "،": ", ", "؛": "; ", "٪": "%", "٫": ".",
    "٬": ",", "｡": ". ",
}  # fmt: skip
# invisible characters: joiners, direction marks, byte-order marks, variation selectors
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\ufe0e\ufe0f]")
# spaces that separate thousands: 1 000 000
THIN_SPACE = re.compile("(?<=[0-9])[\u00a0\u2007\u2008\u2009\u202f](?=[0-9]{3}(?![0-9]))")
ROOT = re.compile("([√∛∜])\\s*(\\(|[0-9]+(?:\\.[0-9]+)?|[A-Za-z]|\\\\pi|)")
ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙₖ]+")
MIXED = re.compile("([0-9]?)([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
NOT_ASCII = re.compile("[^\x00-\x7f]")


def to_latex(text: str) -> str:
    r"""Replace signs by LaTeX: "3√5 ≤ ½π" becomes 3\sqrt{5} \le \frac{1}{2}\pi.

    Full-width and Arabic-Indic digits become ASCII, superscripts and subscripts ^{..} and _{..}; thin spaces
    between thousands are removed. Letters of other scripts stay. Linear in the text, never raises.
    """
    if text.isascii():
        return text
    text = THIN_SPACE.sub("", INVISIBLE.sub("", text))
    text = MIXED.sub(_fraction, text)
    text = RAISED.sub(lambda found: f"^{{{_flat(found[0])}}}", text)
    text = LOWERED.sub(lambda found: f"_{{{_flat(found[0])}}}", text)
    text = NOT_ASCII.sub(_character, text)
    return ROOT.sub(_root, text)


def _character(found: re.Match[str]) -> str:
    char = found[0]
    if char in ROOTS:
        return char
    name = GREEK.get(char) or COMMANDS.get(char)
    if name:
        return f"\\{name} "
    if char in LETTERS:
        return f"\\mathbb{{{LETTERS[char]}}}"
    if char in PLAIN:
        return PLAIN[char]
    if char.isspace():
        return " "
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    folded = unicodedata.normalize("NFKC", char)
    return "".join(PLAIN.get(each, each) for each in folded)


def _flat(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _fraction(found: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", found[2]).partition("⁄")
    return f"{found[1]}\\frac{{{top}}}{{{bottom}}}"


def _root(found: re.Match[str]) -> str:
    inside = found[2]
    if inside == "(":  # the bracket closes it: \sqrt(x) is read so
        return f"{ROOTS[found[1]]}("
    return f"{ROOTS[found[1]]}{{{inside}}}" if inside else ROOTS[found[1]] + " "
