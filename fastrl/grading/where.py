"""Find the answer in a completion: after its thought, in a tag, in a box, after a phrase."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastrl.grading.boxes import OPENING, box_contents, boxed_answer, find_boxes
from fastrl.grading.latex import clean
from fastrl.grading.levels import LEVELS, Extraction, Level, LevelName
from fastrl.grading.phrases import LABEL, find_phrases, trimmed

THOUGHT = r"(?:think|thinking|thoughts?|reason)"
THOUGHT_END = re.compile(
    rf"</\s*{THOUGHT}\s*>|<\|/{THOUGHT}\|>|\u25c1/{THOUGHT}\u25b7|<\|end_of_thought\|>", re.IGNORECASE
)
THOUGHT_START = re.compile(
    rf"<\s*{THOUGHT}\s*>|<\|{THOUGHT}\|>|\u25c1{THOUGHT}\u25b7|<\|begin_of_thought\|>", re.IGNORECASE
)
TAG_START = re.compile(r"<\s*(?:answer|final_answer|final)\s*>", re.IGNORECASE)
TAG_END = re.compile(r"<\s*/\s*(?:answer|final_answer|final)\s*>", re.IGNORECASE)
TAGGED = re.compile(f"{TAG_START.pattern}([^<]*)<", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.])[-\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
FINAL_ANSWER = re.compile(r"final answer", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """An answer found in a completion."""

    text: str
    start: int
    """Index of the beginning of its statement."""
    rule: str
    """Rule that found it: box, tag, phrase, label, last number, whole response."""


def find_answer(text: str, extraction: Extraction = "phrase", level: LevelName = "strict") -> Found | None:
    """Return the answer that a completion states, or None.

    Only the text after the thought is read, if there is one. The rules, in order: <answer>...</answer>; the
    last box that isn't empty, with those joined to it; a value after the last "answer is", "Answer:" or
    "####". A value after "Answer:" at the beginning of a line overrides a box above it. Level strict finds
    none if the thought has no end, if no answer follows it, or if a box after finished ones is unfinished.

    Args:
        extraction: boxed: only boxes. boxed_after_thought: only boxes behind a thought that ends; none
            without one, at any level. phrase: as above. last_number: as phrase, else the last number.
            whole_response: the whole text, which math-verify searches.
        level: see fastrl.grading.levels.

    Linear in the text; never raises.
    """
    if extraction == "whole_response":
        return Found(text, 0, "whole response") if text.strip() else None
    rules = LEVELS[level]
    begin = behind_thought(text)
    needs_thought = extraction == "boxed_after_thought"
    if not begin and (needs_thought or (begin is None and not rules.unfinished)):
        return None
    begin = begin or 0
    extraction = "boxed" if needs_thought else extraction
    found = _find(text[begin:], extraction, rules)
    if found is None and begin and rules.unfinished and not needs_thought:
        begin, found = 0, _find(text, extraction, rules)
    return None if found is None else Found(found.text, found.start + begin, found.rule)


def behind_thought(text: str) -> int | None:
    """Return the index after the last thought, 0 if there is none; None: a thought has no end."""
    end = 0
    for found in THOUGHT_END.finditer(text):
        end = found.end()
    return None if THOUGHT_START.search(text, end) else end


def answer_start(text: str) -> int | None:
    """Return the index at which a text begins to give its answer, or None.

    That is the first of: a box, finished or not; an answer tag; an answer phrase; "final answer"; the end of
    a thought.
    """
    marks = [pattern.search(text) for pattern in (OPENING, THOUGHT_END, TAG_START, FINAL_ANSWER)]
    places = [mark.start() for mark in marks if mark is not None]
    first = next(iter(find_phrases(text[: min(places, default=len(text))])), None)
    places += [] if first is None else [first.start]
    return min(places, default=None)


def stated_answers(text: str) -> list[str]:
    """Return the distinct answers in a text: in boxes, in tags, after phrases. Linear in the text."""
    tags = [text[found.start(1) : found.end(1)] for found in TAGGED.finditer(text)]
    found = [*box_contents(text), *map(trimmed, tags), *(phrase.answer for phrase in find_phrases(text))]
    return list(dict.fromkeys(found))


def extract_answer(text: str, extraction: Extraction = "phrase", level: LevelName = "strict") -> str | None:
    """Return the text of find_answer."""
    found = find_answer(text, extraction, level)
    return None if found is None else found.text


def normalize_answer(answer: str) -> str:
    """Return an answer in the normal form that is compared: see fastrl.grading.latex.clean."""
    return clean(answer) if len(answer) <= 2000 else answer.strip()


def gold_answer(gold: str) -> str:
    """Return the answer of a gold text: the content of its last box, or else all of it."""
    boxes, _ = find_boxes(gold)
    return boxed_answer(gold, boxes)[0] if boxes else gold.strip()


def _find(text: str, extraction: Extraction, level: Level) -> Found | None:
    tag = _tagged(text) if extraction != "boxed" else None
    if tag is not None:
        start, inside, end = tag
        found = _boxed_or_stated(text[inside:end], extraction, level)
        answer = trimmed(text[inside:end]) if found is None else found.text
        if answer:
            return Found(answer, start, "tag")
    found = _boxed_or_stated(text, extraction, level)
    if found is None and extraction == "last_number" and not _broken_off(text, level):
        last = _last(NUMBER, text, len(text))
        found = None if last is None else Found(last[0], last.start(), "last number")
    return found


def _boxed_or_stated(text: str, extraction: Extraction, level: Level) -> Found | None:
    boxes, unfinished = find_boxes(text)
    if boxes:
        if unfinished is not None and not level.unfinished:
            return None
        label = _label_below(text, boxes[-1].stop) if extraction != "boxed" else None
        if label is not None:
            return label
        answer, start = boxed_answer(text, boxes)
        return Found(answer, start, "box")
    if extraction == "boxed" or (unfinished is not None and not level.unfinished):
        return None
    phrases = find_phrases(text, last_only=True)
    values = [phrase for phrase in phrases if phrase.is_value]
    chosen = values[-1] if values else phrases[-1] if phrases else None
    return None if chosen is None else Found(chosen.answer, chosen.start, "phrase")


def _broken_off(text: str, level: Level) -> bool:
    return not level.unfinished and find_boxes(text)[1] is not None


def _label_below(text: str, place: int) -> Found | None:
    """Return the value after "Answer:" at the beginning of a line below the last box, or None."""
    if LABEL.search(text, place) is None:
        return None
    phrases = [each for each in find_phrases(text[place:], last_only=True) if each.is_value and each.is_label]
    if not phrases:
        return None
    return Found(phrases[-1].answer, phrases[-1].start + place, "label")


def _tagged(text: str) -> tuple[int, int, int] | None:
    """Return (start, inside, end) of the last closed answer tag, or None."""
    last = _last(TAG_END, text, len(text))
    opening = None if last is None else _last(TAG_START, text, last.start())
    if last is None or opening is None:
        return None
    return opening.start(), opening.end(), last.start()


def _last(pattern: re.Pattern[str], text: str, end: int) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text, 0, end):
        found = match
    return found
