"""The whole demo, in a world of a few training steps."""

import json
import re

import pytest
from small_world import CONFIG

from fastrl.runtime.run import read_metrics
from fastrl.tiny.demo import ROWS, DemoOptions, run_demo
from fastrl.tiny.world.assess import table, with_interval


def test_the_demo_measures_trains_measures_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTRL_CACHE", str(tmp_path / "cache"))
    run_demo(DemoOptions(dir=str(tmp_path / "run"), steps=2), CONFIG)
    results = json.loads((tmp_path / "run/demo.json").read_text())
    for name in ("avg@4", "maj@4", "transfer/receiver", "transfer/held_out_receiver/low"):
        assert 0 <= results["before"][name] <= 1 and 0 <= results["after"][name] <= 1
    assert [line["step"] for line in read_metrics(tmp_path / "run/metrics.jsonl")] == [0, 1, 2]
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    shown, progress = capsys.readouterr()
    assert re.search(r"^step (\d+)/\1 \| ", progress, re.MULTILINE)  # the lessons of the world's models
    assert all(label in shown for label, _ in ROWS) and "after 2 steps" in shown


def test_table_by_hand():
    numbers = {"a": 0.5, "a/low": 0.25, "a/high": 0.75, "b": 1.0}
    assert with_interval(numbers, "a") == "0.50 [0.25, 0.75]" and with_interval(numbers, "b") == "1.00"
    assert table({"before": numbers, "after": {"b": 0.0}}, [("A", "a"), ("B", "b")]).splitlines() == [
        "   before             after",
        "A  0.50 [0.25, 0.75]  -    ",
        "B  1.00               0.00 ",
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, r"\[demo\] steps: expected > 0"),
        ({"recipe": "int-tiny"}, r"\[demo\] recipe: expected one of the rl stage"),
    ],
)
def test_bad_flags_are_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=message):
        run_demo(DemoOptions(dir=str(tmp_path / "run"), **options), CONFIG)
