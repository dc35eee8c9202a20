"""Answer phrases: find "the answer is 7", "Answer: 7", "#### 7" in several languages, with their answers."""

# ruff: noqa: RUF001
from __future__ import annotations

import re
from dataclasses import dataclass

WORDS = (
    r"(?:answers?|r[ée]ponses?|respuestas?|respostas?|antwort(?:en)?|risposta|odpowied[źz]|svar|cevap|"
    r"jawaban|đáp\s+án|απάντηση|ответ|відповідь|答案|答え|解答|答|답|정답|उत्तर|الإجابة|الجواب|תשובה|คำตอบ|故选|应选)"
)
FINAL = r"(?:final|correct|right)\s+(?:result|solution|value|option|choice)"
MARKUP = r"[\s*_\"'`})\]]{0,6}"
IS = (
    r"(?:[:=：→]|-(?=\s)|(?:is|are|equals|(?:would|must|should|will)\s+be|est|es|ist|é|è|lautet|sind|son|sont|равен"
    r"|это|是|为|為|は|이다|은|는|है|هي|هو)(?![A-Za-zéèà]))"
)
COPULA = re.compile(r"\s*(?:입니다|이다|です|である)$")
PHRASE = re.compile(
    rf"(?<![A-Za-z])(?:(?:{WORDS}|{FINAL})(?:\s+finale?)?(?:\s*\([^()\n]{{0,30}}\))?{MARKUP}{IS}"
    r"|(?:correct|right)\s+answer\s+choice\s+is)"
    r"[\s:*_：=→]*",
    re.IGNORECASE,
)
# a heading, or a line of its own, with the answer below
HEADING = re.compile(
    rf"^[ \t#*_>]{{0,20}}(?:(?:the|your|my)\s+)?(?:final\s+)?{WORDS}[ \t*_:：#]{{0,20}}\n\s*",
    re.IGNORECASE | re.MULTILINE,
)
HASHES = re.compile(r"(?:^|(?<=[\s.]))####(?!#)[ \t]*:?[ \t]*")
LABEL = re.compile(
    rf"^[ \t>#*_\-]{{0,20}}(?:(?:the|my)\s+)?(?:final\s+)?{WORDS}[ \t*_]{{0,20}}[:：]",
    re.IGNORECASE | re.MULTILINE,
)
NUMBERED = re.compile(r"[0-9]+\s*(?:[.)]\s+\S|[.)]$|:\s)")
FENCE = re.compile(r"(?:```|~~~)[A-Za-z]*\n?(.*?)(?:\n?(?:```|~~~)|$)", re.DOTALL)
MATH = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
JOINT = re.compile(r"\s*(?:,|;|、)?\s*(?:and|or|,|;|、|y|et|und|和)?\s*(?=\$|\\\(|\\\[)", re.IGNORECASE)
PROSE = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}(?:\s+[A-Za-z]{2,})+|[.!?]\s+[A-Z]|\s[a-z]{2,}\s*$")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)(?<!\.\.)|\n|[。！？]")
CLAUSE = re.compile(
    r",\s+(?!and\b|or\b)(?=[a-z]{2,}\b)"
    r"|\s+(?:because|since|which|where|so that|as required|as desired|and not|but not|but)\b"
    r"|\s+\((?=[a-z]{2,}[\s)])|\s+[—–]\s+"
)
VALUE = re.compile(
    r"[+\-±−]?\s*(?:\\?\$|[€£¥₹])?\s*(?:[0-9.٠-٩０-９]|\\[a-zA-Z{(\[]|[√π∞∅(\[{⟨])"
    r"|[A-Za-z]\s*=|\(?[A-J]\)?(?:[.,:;)]|\s|$)"
    r"|[a-zA-Z](?:\^|_|[+\-*/])|[A-Za-z]\([a-z]\)|(?:yes|no|true|false|none|no solution)\b",
    re.IGNORECASE,
)
LONGEST = 4000


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase with the answer that it states."""

    start: int
    answer: str
    is_value: bool
    """True if the answer begins like a value, not like a remark: "the answer is correct"."""
    is_label: bool
    """True for a heading, "####", or a label at the beginning of a line, such as "Answer:"."""


def find_phrases(text: str, last_only: bool = False) -> list[Phrase]:
    """Return the answer phrases in order. Linear in the text: each phrase is read up to the next.

    last_only: only the last phrase with a value, and the phrases after it.
    """
    marks: list[tuple[int, int, int]] = sorted(
        {
            (found.start(), found.end(), which)
            for which, pattern in enumerate((PHRASE, HEADING, HASHES))
            for found in pattern.finditer(text)
        }
    )
    if not marks:
        return []
    labels = {found.end() for found in LABEL.finditer(text)}
    phrases: list[Phrase] = []
    ends = [start for start, _, _ in marks[1:]] + [len(text)]
    last_line = text.rfind("\n", 0, len(text.rstrip()))
    found = list(zip(marks, ends, strict=True))
    for (start, inside, which), end in reversed(found) if last_only else found:
        phrase = _read(text, start, inside, which, max(inside, end), labels, start > last_line)
        if phrase is not None:
            phrases.append(phrase)
            if last_only and phrase.is_value:
                break
    return phrases[::-1] if last_only else phrases


def _read(
    text: str, start: int, inside: int, which: int, end: int, labels: set[int], is_last: bool
) -> Phrase | None:
    answer = statement(text[inside : min(end, inside + LONGEST)])
    if not answer:
        return None
    if which == 2 and (NUMBERED.match(text, inside, end) or not _is_hash_answer(answer, is_last)):
        return None
    is_label = which > 0 or any(start <= place <= inside for place in _near(labels, start, inside))
    return Phrase(start, answer, VALUE.match(answer) is not None, is_label)


def _near(labels: set[int], start: int, inside: int) -> list[int]:
    return [place for place in range(start, inside + 1) if place in labels]


def _is_hash_answer(answer: str, is_last: bool) -> bool:
    """Return whether "####" marks an answer, as in #### 12; #### Step 1 or #### Check is a heading."""
    if is_last:
        return not re.match(
            r"(?:step|case|part|check|verif|conclu|summary|note|proof|explan|final)", answer, re.IGNORECASE
        )
    return (
        VALUE.match(answer) is not None
        and re.search(r"[A-Za-z]{3,}", re.sub(r"\\[A-Za-z]+", "", answer)) is None
    )


def statement(rest: str) -> str:
    """Return the answer at the beginning of a text: a fence's content, math spans, or the first sentence."""
    rest = rest.lstrip(' \t\n*_>:：=#}"')
    fence = FENCE.match(rest)
    if fence is not None:
        return fence[1].strip()
    spans = math_spans(rest)
    if spans:
        return ", ".join(spans)
    end = SENTENCE_END.search(rest)
    sentence = rest[: end.start() if end else None]
    clause = CLAUSE.search(sentence)
    if clause is not None and VALUE.match(sentence[: clause.start()] or " "):
        sentence = sentence[: clause.start()]
    return COPULA.sub("", trimmed(sentence))


def math_spans(text: str) -> list[str]:
    """Return the math spans at the beginning of a text; commas, "and" and "or" may join several."""
    spans: list[str] = []
    place = 0
    while True:
        span = _span(text, place)
        if span is None:
            return spans
        content, place = span
        spans.append(content)
        if (content.rstrip().endswith("=") or content.rstrip().endswith("\\approx")) and len(spans) == 1:
            return []
        joint = JOINT.match(text, place)
        if (
            joint is None
            or (joint.end() == place and text[place : place + 1] not in "$\\")
            or not joint[0].strip()
        ):
            return spans
        place = joint.end()


def _span(text: str, place: int) -> tuple[str, int] | None:
    for opening, closing in MATH:
        if text.startswith(opening, place):
            inside = place + len(opening)
            end = text.find(closing, inside, inside + LONGEST)
            while end > 0 and opening == "$" and text[end - 1] == "\\":  # \$ is money
                end = text.find(closing, end + 1, inside + LONGEST)
            content = text[inside:end].strip() if end >= 0 else ""
            if not content or (
                opening == "$"
                and (
                    PROSE.search(re.sub(r"\\(?:text|mathrm|mbox|textbf)\{[^{}]*\}", "", content))
                    or "\n\n" in content
                )
            ):
                return None
            return trimmed(content), end + len(closing)
    return None


def trimmed(text: str) -> str:
    """Strip markup, and delimiters at the ends whose partner is missing."""
    text = text.strip().strip("*_`").strip()
    while True:
        before = text
        for closing, opening in (("\\]", "\\["), ("\\)", "\\("), ("$$", None), ("**", None)):
            if text.endswith(closing) and (opening is None or opening not in text):
                text = text[: -len(closing)].rstrip()
        for opening in ("\\[", "\\(", "$$"):
            if text.startswith(opening) and text.count(opening) == 1:
                text = text[len(opening) :].lstrip()
        for closing, opening in (("}", "{"), (")", "("), ("]", "[")):
            if text.endswith(closing) and opening not in text and not text.endswith("\\" + closing):
                if closing in ")]" and ("(" in text or "[" in text or "]" in text[:-1]):
                    continue
                text = text[:-1].rstrip()
        if text.endswith("$") and not text.endswith("\\$") and text.count("$") == 1:
            text = text[:-1].rstrip()
        text = text.strip("*_`").rstrip(" .,;:")
        if text == before:
            return text
