"""Files, options, recipes and links that README.md and docs/ name exist."""

from __future__ import annotations

import re
from functools import cache
from runpy import run_path

import pytest
from doc_blocks import PAGES, ROOT, page_name, prose
from doc_commands import OPTIONS

from fastrl.config import (
    CptConfig,
    GroupsConfig,
    HardSetConfig,
    InterveneConfig,
    PipelineConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    SubsetConfig,
    field_names,
)
from fastrl.config.load import find_recipe, from_dict, read_yaml, recipe_names

STAGES = (
    CptConfig, GroupsConfig, HardSetConfig, InterveneConfig, RewardModelConfig, RlConfig, SftConfig,
    SubsetConfig,
)  # fmt: skip


def test_the_map_of_the_source_is_up_to_date():
    architecture = run_path(str(ROOT / "docs" / "architecture.py"))
    assert architecture["PAGE"].read_text() == architecture["page"](), "python docs/architecture.py"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@cache
def option_names() -> set[str]:
    names = set().union(*(field_names(stage) for stage in STAGES), *map(field_names, OPTIONS.values()))
    for recipe in recipe_names():
        config = from_dict(read_yaml(find_recipe(recipe)))
        if isinstance(config, PipelineConfig):
            names |= set(field_names(type(config)))
    return names


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_options_that_the_prose_names_are_there(page):
    known = option_names()
    for name in re.findall(r"`[^`]*?--([a-z_]+\.[a-z0-9_.]+)", prose(page)):
        assert name in known, name


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_that_the_prose_names_are_there(page):
    for module in re.findall(r"python -m ((?:bench|fastrl)\.[\w.]+)", prose(page)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for path in re.findall(r"`((?:tests|bench|fastrl)/[\w/.-]+\.(?:py|json|png))`", prose(page)):
        assert (ROOT / path).exists(), path
    for recipe in re.findall(r"fastrl (?:train|plan|sweep) ([\w-]+)", prose(page)):
        assert recipe.isupper() or find_recipe(recipe).exists(), recipe
