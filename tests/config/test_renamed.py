"""Options of earlier versions: refused in recipes and flags, translated in run folders."""

import copy
from pathlib import Path

import pytest
import yaml

from fastrl.config import STAGES, RlConfig, field_names, get_option
from fastrl.config.load import from_dict, load_config, read_stored, read_yaml, to_yaml
from fastrl.config.renamed import TABLE, Removed, put
from fastrl.runtime.run import Run
from fastrl.stages.pipeline import claim

OLD = sorted(Path(__file__).with_name("old").glob("*.yaml"))
"""Config files written by stages and pipelines when frozen models still had the options of trained ones."""
ROWS = [(stage, old) for stage, rows in TABLE.items() for old in rows]
REMOVED = [(stage, old) for stage, old in ROWS if isinstance(TABLE[stage][old], Removed)]
RENAMED = [row for row in ROWS if row not in REMOVED]
EVERY_SECTION = {
    "rl": {
        "reward": {"functions": ["transfer", "uplift"], "weights": [1.0, 1.0]},
        "eval": {"path": "test.jsonl", "faithfulness": {"enabled": True}},
    }
}
"""Options with which a stage uses all its sections."""
OTHER = {"train.lr_scheduler_type": "linear", "train.min_lr_rate": 0.5}
"""Values that are no default, of options whose default can't be halved."""


def write(folder, options) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(options))
    return str(path)


def test_there_is_an_old_file_of_every_stage():
    stages = {read_yaml(path)["stage"] for path in OLD}
    assert stages == {*STAGES, "pipeline"}


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_old_configuration_is_read_and_written_anew(path, tmp_path):
    config = read_stored(path)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_stored(tmp_path / "config.yaml") == config
    assert from_dict(read_yaml(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    "name, recipe",
    [
        ("rl", "rltr-tiny"),
        ("pipeline", "tracelift-math-tiny"),
        ("int", "int-tiny"),
        ("weak-scarce", "weak-scarce-tiny"),
    ],
)
def test_an_old_run_resumes_with_its_recipe(name, recipe, tmp_path):
    text = next(path for path in OLD if path.stem == name).read_text()
    config = load_config(recipe, ["--run.dir", str(tmp_path)])
    text = text.replace(f"dir: runs/{recipe}", f"dir: {tmp_path}")
    if isinstance(config, RlConfig):
        (tmp_path / "config.yaml").write_text(text)
        Run.start(config)
        assert (tmp_path / "config.yaml").read_text() == to_yaml(config)
    else:
        (tmp_path / "pipeline.yaml").write_text(text)
        assert claim(config) == tmp_path


def test_functions_of_modules_that_moved(tmp_path):
    (path,) = (path for path in OLD if path.stem == "weak")
    own = read_stored(path).eval.faithfulness
    home = "fastrl.tiny.weak.faithful"
    assert (own.corrupt, own.checker, own.strategy) == (
        f"{home}.spoil",
        f"{home}.aligned",
        f"{home}.strategy",
    )
    with pytest.raises(ValueError, match=rf"faithfulness\.\w+: expected '{home}\.\w+', its new name, got"):
        load_config(write(tmp_path, {**read_yaml(path), "alarm": {}}))
    rewards = {"stage": "rl", "reward": {"functions": ["fastrl.tiny.faithful.aligned"], "weights": [1]}}
    write(tmp_path, rewards)
    assert read_stored(tmp_path / "recipe.yaml").reward.functions == (f"{home}.aligned",)


def test_no_row_names_an_option_that_there_is():
    assert ROWS
    for stage, old in ROWS:
        assert old not in field_names(STAGES[stage]), (stage, old)


@pytest.mark.parametrize("stage, old", REMOVED)
def test_a_removed_option_is_dropped_at_its_default_and_else_refused(stage, old, tmp_path):
    usual = {"stage": stage}
    put(usual, old, TABLE[stage][old].default)
    path = write(tmp_path, usual)
    assert read_stored(Path(path)) == load_config(path) == from_dict({"stage": stage})
    put(usual, old, "other")
    path = write(tmp_path, {"stage": "pipeline", "own": usual})
    for read in (load_config, lambda path: read_stored(Path(path))):
        with pytest.raises(ValueError, match=rf"\[recipe\] own\.{old}: expected it to be left out, since"):
            read(path)
    plain = write(tmp_path, {"stage": stage})
    with pytest.raises(ValueError, match=rf"\[recipe\] {old}: expected it to be left out, since"):
        load_config(plain, [f"--{old}", "other"])


@pytest.mark.parametrize("stage, old", RENAMED)
def test_a_renamed_option_is_refused_with_its_new_name_and_translated_from_a_run(stage, old, tmp_path):
    new = TABLE[stage][old].to
    default = get_option(from_dict({"stage": stage}), new)
    if isinstance(default, dict):
        value = {"date": 1}
    else:
        value = OTHER.get(new) or (default + 1 if isinstance(default, int) else default / 2)
    usual = {"stage": stage, **EVERY_SECTION.get(stage, {})}
    before, after = copy.deepcopy(usual), copy.deepcopy(usual)
    put(before, old, value)
    put(after, new, value)
    path = write(tmp_path, {"stage": "pipeline", "own": before})
    assert read_stored(Path(path)).own == from_dict(after) != from_dict(usual)
    with pytest.raises(ValueError, match=rf"\[recipe\] own\.{old}: expected own\.{new}, its new name"):
        load_config(path)
    plain = write(tmp_path, {"stage": stage})
    with pytest.raises(ValueError, match=rf"\[recipe\] {old}: expected {new}, its new name"):
        load_config(plain, [f"--{old}={value}"])


def test_all_old_names_are_reported_at_once(tmp_path):
    options = {"stage": "rl", "alarm": {"keep_entropy": 0.5, "least_ess": 0.5}}
    with pytest.raises(ValueError) as refused:
        load_config(write(tmp_path, options))
    assert str(refused.value) == (
        "[recipe] alarm.keep_entropy: expected alarm.min_entropy_ratio, its new name; "
        "alarm.least_ess: expected alarm.min_ess, its new name"
    )
