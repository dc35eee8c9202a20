"""Splits a rollout into numbered substeps that a verifier can refer to."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Separator = Literal["blank line", "line", "sentence"]
# coarse to fine; a pattern matches the text between two steps
SEPARATORS: dict[Separator, re.Pattern[str]] = {
    # (?<!\s) starts a match after a word, so that long runs of spaces take linear time
    "blank line": re.compile(r"(?<!\s)\s*\n[ \t]*\n\s*"),
    "line": re.compile(r"(?<!\s)\s*\n\s*"),
    "sentence": re.compile(r"(?<=[.!?])\s+(?=[A-Z\\$(\"'])"),
}
# nothing is cut between one of these and its end
OPENING = re.compile(r"\\\[|\$\$|\\\(|```|\\begin\{(?P<name>[^{}\n]{0,40})\}")
CLOSING = {"\\[": "\\]", "$$": "$$", "\\(": "\\)", "```": "```"}


@dataclass(frozen=True, slots=True)
class Steps:
    """A text and the spans of its substeps; separators between them belong to none."""

    text: str
    spans: tuple[tuple[int, int], ...]
    """(start, end) of each, in characters, in order."""
    separator: Separator

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> str:
        return self.text[slice(*self.spans[index])]

    def before(self, location: int) -> str:
        """Return the text before substep `location` (from 1), with the separator; "" before the first."""
        return self.text[: self.spans[location - 1][0]] if location > 1 else ""

    def upto(self, location: int) -> str:
        """Return the text up to the end of substep `location`; "" for 0."""
        return self.text[: self.spans[location - 1][1]] if location > 0 else ""

    def spaced(self, content: str) -> str:
        """Return a new step with the rollout's line breaks: blank lines between its lines if blank lines
        separate the steps. Formulas, code and environments keep theirs."""
        if self.separator != "blank line":
            return content
        cuts = pieces(content, "line", whole_spans(content))
        return "\n\n".join(content[start:end] for start, end in cuts)

    def numbered(self, template: str = "**Substep {number}:**\n{step}", between: str = "\n\n") -> str:
        """Return the verifier's view: every substep under its number, from 1."""
        return between.join(filled(template, number=str(i + 1), step=self[i]) for i in range(len(self)))


def filled(template: str, **values: str) -> str:
    """Replace each {name} in the template; other braces, and those in the values, stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def segment(
    text: str, *, min_chars: int = 24, min_steps: int = 3, max_steps: int = 200, split_formulas: bool = False
) -> Steps:
    """Split a rollout at blank lines; if these give fewer than min_steps, at lines, then at sentences.

    Formulas, code blocks and LaTeX environments are split only if split_formulas is true. A piece shorter
    than min_chars joins the previous one (the first joins the next). More than max_steps pieces are merged
    into max_steps even runs.

    Raises:
        ValueError: the text is empty.
    """
    if not text.strip():
        raise ValueError("[segment] text: expected at least one character, got none")
    found: list[Steps] = []
    for separator in SEPARATORS:
        whole = [] if split_formulas else whole_spans(text)
        spans = joined(merged(pieces(text, separator, whole), min_chars), max_steps)
        found.append(Steps(text, tuple(spans), separator))
        if len(spans) >= min_steps:
            return found[-1]
    return max(found, key=len)  # the first, so the coarsest, of the longest


def pieces(text: str, separator: Separator, whole: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans between separators, without outer whitespace. Separators inside `whole`, spans that
    stay whole, don't count."""
    starts = [start for start, _ in whole]
    inside = len(text) - len(text.lstrip())
    spans, start = [], inside
    for match in SEPARATORS[separator].finditer(text, inside):
        before = bisect_left(starts, match.end()) - 1
        if before >= 0 and match.start() < whole[before][1]:
            continue
        if match.start() > start:
            spans.append((start, match.start()))
        start = match.end()
    end = len(text.rstrip())
    return [*spans, (start, end)] if end > start else spans


def whole_spans(text: str) -> list[tuple[int, int]]:
    """Spans of formulas, code blocks and environments, in order. Linear: a missing end is looked for once."""
    spans: list[tuple[int, int]] = []
    endless: set[str] = set()
    found = OPENING.search(text)
    while found is not None:
        closing = CLOSING.get(found[0], f"\\end{{{found['name']}}}")
        end = -1 if closing in endless else text.find(closing, found.end())
        if end < 0:
            endless.add(closing)
            found = OPENING.search(text, found.start() + 1)
        else:
            spans.append((found.start(), end + len(closing)))
            found = OPENING.search(text, end + len(closing))
    return spans


def merged(spans: Sequence[tuple[int, int]], min_chars: int) -> list[tuple[int, int]]:
    """Join each short piece to the previous one; a short first piece to the next."""
    out: list[tuple[int, int]] = []
    for start, end in spans:
        short_first = len(out) == 1 and out[0][1] - out[0][0] < min_chars
        if out and (end - start < min_chars or short_first):
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def joined(spans: Sequence[tuple[int, int]], max_steps: int) -> list[tuple[int, int]]:
    """Merge neighbours into at most max_steps runs whose lengths differ by at most one."""
    count = min(len(spans), max_steps)
    bounds = [len(spans) * k // count for k in range(count + 1)]
    return [(spans[a][0], spans[b - 1][1]) for a, b in pairwise(bounds)]
