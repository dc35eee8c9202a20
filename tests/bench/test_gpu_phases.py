"""Counts of every phase in the twin of a GPU stay below their ceilings.

A count that rises is named with its phase. After a change that lowers one, or that must raise one, write the
ceilings anew: PYTHONPATH=.:tests python tests/bench/test_gpu_phases.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from places import TESTS

from bench.device_counts import Counts
from bench.gpu_phases import Sizes, all_phases, as_json, loss_phases

CEILINGS = TESTS / "bench/gpu_ceilings.json"
FAMILY = "llama"
REFERENCE = (16384, 4096, 151936)
"""Tokens, width and vocabulary of the loss in GPU figures: five chunks, of many pieces each."""


def ceilings() -> dict[str, dict[str, int]]:
    return json.loads(CEILINGS.read_text())


@pytest.fixture(scope="module")
def phases(checkpoints) -> dict[str, Counts]:
    return counted(str(checkpoints[FAMILY]))


@cache
def counted(folder: str) -> dict[str, Counts]:
    return all_phases(folder, Sizes()) | loss_phases(*REFERENCE, name="reference_loss")


def above(found: dict[str, dict[str, int]], allowed: dict[str, dict[str, int]]) -> list[str]:
    """Return what rose: phase, count, ceiling and value."""
    return [
        f"{phase} {name}: at most {allowed[phase][name]:,}, now {value:,}"
        for phase, counts in found.items()
        for name, value in counts.items()
        if value > allowed[phase][name]
    ]


def test_no_count_rises(phases):
    found = {name: counts.as_dict() for name, counts in phases.items()}
    assert found.keys() == ceilings().keys()
    assert above(found, ceilings()) == []


def test_a_float32_head_is_cast_once(phases):
    """It costs what a bfloat16 head does, whose one cast is the gradient's. One cast a piece would be 39."""
    head, other = (phases[f"reference_loss_{dtype}_head"] for dtype in ("fp32", "bf16"))
    assert head.casts == other.casts
    assert head.bytes_read == other.bytes_read


def test_an_engine_that_drops_its_weights_copies_none_to_the_host(phases):
    """The rotary embedding's two buffers move; sleep(1) moves 21 weights too."""
    assert phases["sleep_2"].host_reads == 2
    assert phases["sleep_1"].host_reads == 2 + 21


def test_what_rose_is_named():
    allowed = {"score": {"casts": 2, "launches": 5}}
    assert above({"score": {"casts": 3, "launches": 5}}, allowed) == ["score casts: at most 2, now 3"]


def write() -> None:
    from checkpoints import write_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        CEILINGS.write_text(as_json(counted(str(write_checkpoint(Path(folder), FAMILY)))))


if __name__ == "__main__":
    sys.exit(write())
