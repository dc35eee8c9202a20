"""What README.md and docs/ say of files, options, recipes and links is so."""

from __future__ import annotations

import re
from functools import cache

import pytest
from doc_blocks import PAGES, ROOT, blocks, prose
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
)
from fastrl.load import field_names, find_recipe, from_dict, read_yaml, recipe_names

STAGES = (
    CptConfig, GroupsConfig, HardSetConfig, InterveneConfig, RewardModelConfig, RlConfig, SftConfig,
    SubsetConfig,
)  # fmt: skip
FOLDERS = ("csrc", "kernels", "fastrl", "bench")
TREE = next(block.text for block in blocks(PAGES[0]) if block.kind == "text")
ENDS = (".py", ".cpp", ".h", ".cu")


def listed() -> set[str]:
    """Files of the tree: a folder stands at the left margin, its files below it."""
    found, folder = set(), ""
    for line in TREE.splitlines():
        name = line.split()[0] if line.strip() else ""
        if line.startswith(" "):
            found.add(folder + name)
        elif name.endswith("/"):
            folder = name
    return found


def test_every_source_file_has_a_line_in_the_tree():
    there = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in ENDS and path.stat().st_size and "fastrl/kernels/" not in str(path)
    }
    there -= {path for path in there if path.startswith("bench/competitors/")}  # one line for all
    names = listed()
    plain = {path for path in there if not path.endswith("__init__.py")}
    assert sorted(plain - names) == [], "without a line"
    assert sorted(names - there - {path for path in names if not path.endswith(ENDS)}) == [], "gone"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem.lower())
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem.lower())
def test_options_that_the_prose_names_are_there(page):
    known = option_names()
    for name in re.findall(r"`[^`]*?--([a-z_]+\.[a-z_.]+)", prose(page)):
        assert name in known, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem.lower())
def test_commands_that_the_prose_names_are_there(page):
    for module in re.findall(r"python -m ((?:bench|fastrl)\.[\w.]+)", prose(page)):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
    for path in re.findall(r"`((?:tests|bench|fastrl)/[\w/.-]+\.(?:py|json|png))`", prose(page)):
        assert (ROOT / path).exists(), path
    for recipe in re.findall(r"fastrl (?:train|plan|sweep) ([\w-]+)", prose(page)):
        assert recipe.isupper() or find_recipe(recipe).exists(), recipe
