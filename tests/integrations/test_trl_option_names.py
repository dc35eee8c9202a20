"""docs/trl.md's table of options against the dataclasses of TRL and of fastrl."""

import dataclasses
import re
from pathlib import Path

import pytest

from fastrl.config import STAGES, RlConfig, field_names, get_option

trl = pytest.importorskip("trl", reason="trl is not installed")

FIELDS = {
    field.name: field.default
    for config in (trl.ModelConfig, trl.SFTConfig, trl.GRPOConfig)
    for field in dataclasses.fields(config)
}
OPTIONS = set().union(*(field_names(stage) for stage in STAGES.values()))
OTHER_MEANINGS = {"steps.max_steps"}
"""Options with a name of TRL's that mean something else, which the page says."""
PAGE = Path(__file__).parents[2] / "docs" / "trl.md"


def section() -> str:
    return PAGE.read_text().split("\n## Options: ")[1].split("\n## ")[0]


def rows() -> list[tuple[list[str], list[str]]]:
    """Return TRL's and fastrl's names in each row of the table."""
    cells = [line.split("|")[1:3] for line in section().splitlines() if line.startswith("| `")]
    return [(re.findall(r"`(\w+)`", first), re.findall(r"`([\w.]+)`", second)) for first, second in cells]


def test_every_name_in_the_table_is_a_field():
    assert rows()
    for theirs, ours in rows():
        assert theirs and ours
        assert set(theirs) <= set(FIELDS), theirs
        assert set(ours) <= OPTIONS, ours


def test_an_option_stands_in_one_row():
    names = [name for _, ours in rows() for name in ours]
    assert len(names) == len(set(names))


def test_the_page_lists_the_options_with_trls_name():
    listed = re.findall(r"`(\w+)`", section().split("in their sections, are:")[1].split("\n\n")[0])
    assert listed == sorted({name.rsplit(".", 1)[-1] for name in OPTIONS - OTHER_MEANINGS} & set(FIELDS))
    assert all(f"`{name}`" in section() for name in OTHER_MEANINGS)


def test_an_option_with_trls_name_and_another_default_has_a_row():
    config = RlConfig()
    described = {name for _, ours in rows() for name in ours}
    compared = 0
    for name in field_names(RlConfig):
        part, _, last = name.rpartition(".")
        if last not in FIELDS or part not in ("run", "model", "rollout", "loss", "train"):
            continue
        compared += 1
        theirs, ours = FIELDS[last], get_option(config, name)
        assert theirs == ours or (theirs, ours) == ("none", ()) or name in described, (name, ours, theirs)
    assert compared > 10
