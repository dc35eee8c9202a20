"""The names that docs/api.md lists exist in the modules it names."""

from __future__ import annotations

import importlib
import re

import pytest
from places import ROOT

import fastrl

ROW = re.compile(r"^\| `(fastrl[\w.]*)` \| (.+?) \|", re.MULTILINE)
PUBLIC: dict[str, list[str]] = {}
for row_module, names in ROW.findall((ROOT / "docs/api.md").read_text()):  # a module may have several rows
    PUBLIC.setdefault(row_module, []).extend(re.findall(r"`(\w+)`", names))
NEEDS = {"fastrl.integrations.trl": "trl", "fastrl.integrations.verl": "verl"}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_names_of_the_page_are_there(module):
    for place, package in NEEDS.items():
        if module.startswith(place):
            pytest.importorskip(package)
    found = importlib.import_module(module)
    assert PUBLIC[module] and [name for name in PUBLIC[module] if not hasattr(found, name)] == []


def test_every_op_and_reward_is_on_the_page():
    for module in ("fastrl.ops", "fastrl.rewards"):
        assert sorted(PUBLIC[module]) == sorted(importlib.import_module(module).__all__)


def test_the_package_names_its_public_rooms():
    for name in set(fastrl.__all__) - {"__version__"}:
        assert any(module.startswith(f"fastrl.{name}") for module in PUBLIC), name
        importlib.import_module(f"fastrl.{name}")
