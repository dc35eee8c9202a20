"""The summary page of a groups run: its counts, and examples with the changed place marked. One HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from random import Random
from typing import Any

from fastrl.config import GroupsConfig
from fastrl.data.groups import Group, Trace
from fastrl.seeding import seed_of
from fastrl.stages.groups.counts import tables

NUM_EXAMPLES = 6
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{padding:.15rem .8rem .15rem 0;text-align:left;border-bottom:1px solid #ddd}"
    "pre{white-space:pre-wrap;background:#f6f6f6;padding:.6rem;margin:.3rem 0}"
    "mark{background:#ffd54a}h4{margin:.8rem 0 0}"
)


def page(counts: Mapping[str, Any], groups: Sequence[Group], config: GroupsConfig) -> str:
    """HTML that needs no other file; all text is escaped."""
    order = list(groups)
    Random(seed_of(config.run.seed, "page")).shuffle(order)
    title = f"Groups of {escape(config.data.path)}: {config.task}, {config.negatives}"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>',
        f"<body><h1>{title}</h1>",
        *(_table(*each) for each in tables(counts)),
        "<h2>examples</h2>",
        *(_group(group) for group in order[:NUM_EXAMPLES]),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


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
    """The text as HTML, the place in <mark>; a caret stands where something was left out."""
    if place is None:
        return escape(text)
    start, end = place
    return f"{escape(text[:start])}<mark>{escape(text[start:end]) or '‸'}</mark>{escape(text[end:])}"
