"""The tables of recipes against papers: numbers are the recipes', and the pages hold what the YAML gives."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from runpy import run_path

import pytest
from doc_blocks import ROOT

from fastrl.config import get_option, with_option
from fastrl.config.load import load_config

fidelity = run_path(str(ROOT / "docs" / "fidelity.py"))
PAPERS = fidelity["papers"]()
ROWS = [(page, row) for page, rows in PAPERS.items() for row in rows]
load = cache(load_config)


def name(pair) -> str:
    return pair if isinstance(pair, str) else getattr(pair, "element", "")


def test_the_four_papers_have_at_least_fifteen_elements_each():
    assert set(PAPERS) == {"rltr", "tracelift", "int", "weak"}
    for rows in PAPERS.values():
        names = [row.element for row in rows]
        assert len(names) >= 15 and len(set(names)) == len(names)
        assert sum(bool(row.fields) for row in rows) >= 15


@pytest.mark.parametrize(("page", "row"), ROWS, ids=name)
def test_the_recipes_say_what_the_table_says(page, row):
    assert fidelity["faults"](row, load) == []


@pytest.mark.parametrize("page", PAPERS)
def test_the_page_is_what_the_yaml_gives(page):
    own = ROOT / "docs" / f"{page}.md"
    assert own.read_text() == fidelity["page"](page, PAPERS[page]), "python docs/fidelity.py"


@pytest.mark.parametrize(("page", "row"), [pair for pair in ROWS if pair[1].fields], ids=name)
def test_another_number_in_a_recipe_is_found(page, row):
    """Whichever recipe and option of a row changes."""
    for recipe in row.recipes:
        for field in row.fields:
            changed = with_option(load(recipe), field, another(get_option(load(recipe), field)))
            recipes = {name: load(name) for name in row.recipes} | {recipe: changed}
            found = fidelity["faults"](row, recipes.__getitem__)
            assert [fault for fault in found if f"{recipe} {field}: expected" in fault]


def another(value):
    """Return a value that the recipe has not, and that its configuration takes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 if value else 1
    if isinstance(value, tuple):
        return (*value[:-1], another(value[-1])) if value else ("another",)
    return 2 if value is None else "another"


def row(**changes):
    base = fidelity["Row"](
        element="x", paper=4, source="", verdict="same", fields=("rollout.group_size",), recipes=("rltr",),
        value=8, here=8, why="", elsewhere=False,
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"value": 4}, "verdict: expected ours, since 8 is not the paper's 4"),
        ({"verdict": "ours", "why": "y"}, "verdict: expected same, since both are 8"),
        ({"verdict": "ours", "value": 4}, "why: expected a reason, since the verdict is ours"),
        ({"verdict": "ours", "value": 4, "paper": "doesn't say"}, None),
        ({"verdict": "open", "value": 4}, "why: expected a reason, since the verdict is open"),
        ({"fields": ("rollout.groups",)}, "rltr rollout.groups: expected an option of the recipe"),
        ({"here": 9, "value": 9}, "rltr rollout.group_size: expected 9, got 8"),
        ({"fields": (), "here": None}, "here: expected words, since no field is named"),
    ],
)
def test_a_row_that_says_something_else_is_a_fault(changes, fault):
    assert fidelity["faults"](row(**changes), load) == ([] if fault is None else [f"x: {fault}"])


@pytest.mark.parametrize("given", [{"verdict": "sane"}, {"verdict": "same", "feild": "a"}])
def test_a_misspelt_row_is_refused(given):
    with pytest.raises(ValueError, match=r"\[fidelity\]"):
        fidelity["row_of"]({"element": "x", "paper": 4, **given}, ["rltr"])
