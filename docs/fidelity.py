"""Writes the tables of docs/{rltr,tracelift,int,weak}.md that hold the recipes against the papers.

python docs/fidelity.py
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastrl.config import field_names, get_option
from fastrl.config.load import load_config, read_yaml

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS / "fidelity.yaml"
BEGIN, END = "<!-- docs/fidelity.py writes this part -->", "<!-- until here -->"
VERDICTS = ("same", "ours", "open")
UNSAID = "doesn't say"
"""Value of `paper` in rows where the paper, or what is known of it, does not say."""
WIDTH = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One element of a paper next to the recipe's."""

    element: str
    paper: Any
    """The paper's value, or words for it."""
    source: str
    """Section, table or file of the authors' code."""
    verdict: str
    """same; ours: the recipe differs, or the paper doesn't say; open: what the paper did is contradictory."""
    fields: tuple[str, ...]
    """Options of the recipe that hold the value; none: the code does."""
    recipes: tuple[str, ...]
    value: Any
    """The paper's value as the fields spell it; it is `paper` if that is no text in words."""
    here: Any
    """The fields' value in the recipes, or words for what the code does."""
    why: str
    elsewhere: bool
    """The recipes are not the page's usual ones, so the table names them."""


def papers() -> dict[str, list[Row]]:
    """Return each page's rows, from docs/fidelity.yaml."""
    return {
        page: [row_of(given, own["recipes"]) for given in own["rows"]]
        for page, own in read_yaml(SOURCE).items()
    }


def row_of(given: Mapping[str, Any], usual: list[str]) -> Row:
    """Return a row with its defaults filled in.

    Raises: ValueError: an unknown key or verdict.
    """
    known = {"element", "paper", "source", "verdict", "field", "in", "value", "here", "why"}
    if strange := given.keys() - known:
        raise ValueError(f"[fidelity] {given['element']}: expected {', '.join(known)}, got {strange}")
    if given["verdict"] not in VERDICTS:
        raise ValueError(f"[fidelity] verdict: expected {', '.join(VERDICTS)}, got {given['verdict']!r}")
    fields = given.get("field", [])
    value = given.get("value", given["paper"])
    same = value if fields else "the same"
    return Row(
        element=given["element"],
        paper=given["paper"],
        source=given.get("source", ""),
        verdict=given["verdict"],
        fields=(fields,) if isinstance(fields, str) else tuple(fields),
        recipes=tuple(given.get("in", usual)),
        value=value,
        here=given.get("here", same if given["verdict"] == "same" else None),
        why=given.get("why", ""),
        elsewhere="in" in given,
    )


def faults(row: Row, load: Callable[[str], Any]) -> list[str]:
    """Return what is wrong with a row: a recipe with another value, or a verdict that the values deny.

    Args:
        load: returns a recipe's configuration by its name.
    """
    found = []
    for recipe in row.recipes if row.fields else ():
        config = load(recipe)
        for name in row.fields:
            if name not in options_of(type(config)):
                found.append(f"{recipe} {name}: expected an option of the recipe")
            elif (got := plain(get_option(config, name))) != plain(row.here):
                found.append(f"{recipe} {name}: expected {row.here!r}, got {got!r}")
    if row.verdict == "same" and row.fields and plain(row.here) != plain(row.value):
        found.append(f"verdict: expected ours, since {row.here!r} is not the paper's {row.value!r}")
    if row.verdict == "ours" and row.fields and plain(row.here) == plain(row.value):
        found.append(f"verdict: expected same, since both are {row.here!r}")
    if row.here is None and not row.fields:
        found.append("here: expected words, since no field is named")
    if not row.why and (row.verdict == "open" or (row.verdict == "ours" and UNSAID not in str(row.paper))):
        found.append(f"why: expected a reason, since the verdict is {row.verdict}")
    return [f"{row.element}: {fault}" for fault in found]


@cache
def options_of(cls: type[Any]) -> frozenset[str]:
    return frozenset(field_names(cls))


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"e([+-])0+", r"e\1", f"{value:g}")
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "none"
    return str(value).replace("|", "\\|")


def line(row: Row) -> str:
    """Return a row of the table."""
    names = [*(row.recipes if row.elsewhere else ()), *row.fields]
    where = " ".join(f"`{name}`" for name in names) if row.fields else ""
    shown = (row.element, cell(row.paper), row.source, cell(row.here), where, row.verdict)
    return "| " + " | ".join(shown).replace("|  |", "| |") + " |"


def part(rows: list[Row]) -> str:
    """Return what a page says between the two marks: counts, table, reasons."""
    counts = Counter(row.verdict for row in rows)
    total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    lines = [f"{len(rows)} elements: {total}.", ""]
    lines += ["| element | the paper | source | here | option | verdict |", "|---|---|---|---|---|---|"]
    lines += [line(row) for row in rows]
    reasons = [f"- **{row.element}**: {row.why}" for row in rows if row.why]
    wrapped = [textwrap.fill(each, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for each in reasons]
    return "\n".join([BEGIN, "", *lines, "", *wrapped, "", END])


def page(name: str, rows: list[Row]) -> str:
    """Return the whole page docs/{name}.md with its part written anew."""
    before, begin, rest = (DOCS / f"{name}.md").read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"[fidelity] docs/{name}.md: expected {BEGIN} and {END}")
    return before + part(rows) + after


def main() -> None:
    """Check every row against the recipes and write the four pages."""
    load = cache(load_config)
    wrong = [fault for rows in papers().values() for row in rows for fault in faults(row, load)]
    if wrong:
        raise SystemExit("[fidelity] " + "\n".join(wrong))
    for name, rows in papers().items():
        (DOCS / f"{name}.md").write_text(page(name, rows))


if __name__ == "__main__":
    main()
