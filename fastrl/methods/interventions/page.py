"""HTML page of an intervene stage: the funnel, and attempts with the error and the intervention marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from fastrl.methods.interventions.candidates import Candidate
from fastrl.methods.interventions.problems import HardProblem
from fastrl.methods.interventions.segment import Steps
from fastrl.report.html import STYLE, document

SHOWN = 100
"""Attempts on the page, those with an intervention first."""
OWN_STYLE = """\
:root { --bad: #c62828; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #a5d6a7; } }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem 1rem; margin: 1.5rem 0; }
ol { padding: 0; list-style: none; }
li { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; padding: .2rem .6rem;
     border-left: 4px solid var(--line); background: var(--soft); font-family: ui-monospace, monospace; }
li.error { border-color: var(--bad); text-decoration: line-through; text-decoration-color: var(--bad); }
li.new { border-color: var(--good); font-weight: 600; }
li.after { opacity: .5; }
"""


def page(
    problems: Sequence[HardProblem], candidates: Sequence[Candidate], counts: Mapping[str, Any],
    budget: Mapping[str, Mapping[str, int]],
) -> str:  # fmt: skip
    """Return one self-contained HTML page without scripts.

    Each attempt is shown with its selected intervention, or else with the candidate that passed most filters.
    Attempts without a parsable intervention appear only in the counts.
    """
    attempts = [
        shown
        for _, own in groupby(candidates, key=lambda candidate: (candidate.problem, candidate.attempt))
        if (shown := furthest(list(own))) is not None
    ]
    attempts.sort(key=lambda candidate: candidate.outcome != "selected")
    articles = "".join(article(problems[attempt.problem], attempt) for attempt in attempts[:SHOWN])
    body = (
        f"<h1>Interventions</h1>\n<h2>Funnel</h2>\n{table(flat(counts))}\n"
        f"<h2>Requests and tokens</h2>\n{table(flat(budget))}\n<h2>Attempts</h2>\n"
        f"<p>{min(SHOWN, len(attempts))} of {len(attempts)} attempts with a readable intervention.</p>\n"
        f"{articles}"
    )
    return document("Interventions", body, STYLE + OWN_STYLE)


def furthest(own: Sequence[Candidate]) -> Candidate | None:
    """Return the selected candidate, else the first located one that is no leak or repetition, else the first
    located one; None if there is none."""
    read = [candidate for candidate in own if candidate.location is not None]
    dropped = ("leak", "duplicate", "unchanged", "not_first")
    return min(
        read,
        key=lambda candidate: (candidate.outcome != "selected", candidate.outcome in dropped),
        default=None,
    )


def article(problem: HardProblem, candidate: Candidate) -> str:
    steps, location = problem.attempts[candidate.attempt], candidate.location or 1
    rates = [
        f"{name} {rate:.3f}"
        for name, rate in (
            ("from the prefix", candidate.success_prefix),
            ("with the original step", candidate.success_original),
            ("with the intervention", candidate.success),
        )
        if rate is not None
    ]
    success = f" &middot; success {', '.join(rates)}" if rates else ""
    return (
        f"<article><h3>Problem {problem.index}, attempt {candidate.attempt}</h3>\n"
        f"<pre>{escape(problem.question)}</pre>\n<p><small>{escape(candidate.outcome)}{success} &middot; "
        f"gold answer {escape(problem.solution)}</small></p>\n"
        f"<ol>\n{items(steps, location, candidate.content or '')}</ol>\n"
        f"<details><summary>The check</summary><pre>{escape(candidate.check)}</pre></details></article>\n"
    )


def items(steps: Steps, location: int, content: str) -> str:
    """Return the attempt's steps as list items, with the intervention after the wrong step."""
    lines = []
    for number in range(1, len(steps) + 1):
        kind = "error" if number == location else "after" if number > location else "kept"
        lines.append(f'<li class="{kind}">{escape(f"{number}. {steps[number - 1]}")}</li>\n')
        if number == location:
            lines.append(f'<li class="new">{escape(f"{number}. {content}")}</li>\n')
    return "".join(lines)


def table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{shown(value)}</td></tr>'
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def flat(counts: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested counts; names are joined by ": "."""
    found: dict[str, Any] = {}
    for name, value in counts.items():
        place = f"{path}{name.replace('_', ' ')}"
        found |= flat(value, f"{place}: ") if isinstance(value, Mapping) else {place: value}
    return found


def shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
