"""HTML page of a groups run: its counts, and examples with the changed span marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from random import Random
from typing import Any

from fastrl.config import GroupsConfig
from fastrl.methods.tracelift.groups.counts import tables
from fastrl.methods.tracelift.trace_groups import Group, Trace
from fastrl.report.html import STYLE, document
from fastrl.runtime.seeding import seed_of

NUM_EXAMPLES = 6
OWN_STYLE = (
    "pre { background: var(--soft); padding: .6rem; margin: .3rem 0; }\n"
    "mark { background: #ffd54a; }\nh4 { margin: .8rem 0 0; }\n"
)


def page(counts: Mapping[str, Any], groups: Sequence[Group], config: GroupsConfig) -> str:
    """Return one self-contained HTML page; all text is escaped."""
    order = list(groups)
    Random(seed_of(config.run.seed, "page")).shuffle(order)
    title = f"Groups of {config.data.path}: {config.task}, {config.negatives}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(_table(*entry) for entry in tables(counts)),
        "<h2>examples</h2>",
        *(_group(group) for group in order[:NUM_EXAMPLES]),
    ]
    return document(title, "\n".join(parts), STYLE + OWN_STYLE)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<h2>{escape(title)}</h2>\n<table>\n{line(header, 'th')}\n{body}\n</table>"


def _group(group: Group) -> str:
    traces = [_trace("good", trace) for trace in group.positive_pool]
    traces += [_trace(trace.negative_kind or "", trace) for trace in group.negative_bank]
    return f"<h3>{escape(group.problem_id)}</h3>\n<pre>{escape(group.problem)}</pre>\n" + "\n".join(traces)


def _trace(name: str, trace: Trace) -> str:
    hurt = ", ".join(f"{dimension} {score:g}" for dimension, score in trace.scores.items() if score < 10)
    about = f"{name}: total {trace.total:.2f}" + (f", {hurt}" if hurt else "")
    about += f" ({trace.reason})" if trace.reason else ""
    return f"<h4>{escape(about)}</h4>\n<pre>{marked(trace.text, trace.place)}</pre>"


def marked(text: str, place: tuple[int, int] | None) -> str:
    """Return the text as HTML with the span in <mark>; a caret marks a deletion."""
    if place is None:
        return escape(text)
    start, end = place
    return f"{escape(text[:start])}<mark>{escape(text[start:end]) or '‸'}</mark>{escape(text[end:])}"
