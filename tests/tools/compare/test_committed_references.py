"""The packaged references: one per tiny recipe, of its current configuration, and passed by its seeds."""

import os
from pathlib import Path

import pytest
from places import ROOT

from fastrl.config import PipelineConfig
from fastrl.config.load import load_config, recipe_names
from fastrl.tiny.folders import default_cache
from fastrl.tiny.world.config import WorldConfig
from fastrl.tiny.world.make import build_world, world_key
from fastrl.tools.compare.bands import make_bands
from fastrl.tools.compare.findings import compare_run, false_alarms
from fastrl.tools.compare.reference import FOLDER, read_reference, reference_names
from fastrl.tools.compare.runs import options, read_record
from fastrl.train import run_recipe

NAMES = reference_names()


def committed(name):
    return read_reference(FOLDER / f"{name}.jsonl")


def test_every_tiny_recipe_has_one():
    assert [name for name in recipe_names() if name.endswith("-tiny")] == NAMES
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.jsonl" for name in NAMES}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 200 * 2**10


def test_their_pictures_are_kept_outside_the_package():
    pictures = sorted((ROOT / "bench/results/references").iterdir())
    assert [path.name for path in pictures] == [f"{name}.png" for name in NAMES]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in pictures)


@pytest.mark.parametrize("name", NAMES)
def test_it_was_made_from_the_recipe_as_it_is(name):
    """Else: python -m bench.make_references --recipe NAME."""
    reference = committed(name)
    config = load_config(name, reference.flags)
    stages = config.stages if isinstance(config, PipelineConfig) else {config.stage: config}
    assert set(reference.options) == set(stages) and {"rl", "sft"} & {
        stages[each].stage for each in reference.bands
    }
    for stage, asked in reference.options.items():
        assert options(stages[stage]) == asked, stage


@pytest.mark.parametrize("name", NAMES)
def test_its_bands_follow_from_its_seeds(name):
    reference = committed(name)
    assert len(reference.seeds) >= 3 and reference.began_with and reference.environment["packages"]["torch"]
    seeds = {
        stage: {
            block: {metric: band.seeds for metric, band in metrics.items()} for block, metrics in rows.items()
        }
        for stage, rows in reference.bands.items()
    }
    for stage, rows in make_bands(seeds, reference.level).items():
        for block, metrics in rows.items():
            for metric, band in metrics.items():
                stored = reference.bands[stage][block][metric]
                width = band.high - band.low
                assert stored.low == pytest.approx(band.low, rel=1e-4, abs=1e-3 * width), (
                    stage,
                    block,
                    metric,
                )
                assert stored.high == pytest.approx(band.high, rel=1e-4, abs=1e-3 * width), (
                    stage,
                    block,
                    metric,
                )


def test_a_good_seed_passes_nearly_always():
    """Leave-one-out over all references, whose level is 0.99: of 40 seeds one may fail."""
    verdicts = [bool(failed) for name in NAMES for _, failed in false_alarms(committed(name))]
    assert len(verdicts) >= 3 * len(NAMES) and sum(verdicts) <= 1, verdicts


@pytest.mark.trains
def test_training_follows_its_reference(tmp_path, monkeypatch):
    """The first five steps of rlvr-tiny with a seed that the reference has not seen."""
    if not (default_cache() / world_key(WorldConfig())).is_dir():
        pytest.skip("the tiny world is not in the cache; fastrl demo or fastrl tiny puts it there")
    os.symlink(build_world().generator.parent, tmp_path / "tiny-world")
    monkeypatch.chdir(tmp_path)
    reference = committed("rlvr-tiny")
    flags = ["--run.seed=77", "--run.device=cpu", "--train.num_steps=5", "--run.dir=run"]
    run_recipe(load_config("rlvr-tiny", flags))
    found = compare_run(read_record(Path("run")), reference)
    outside = [(each.metric, each.value, each.band) for each in found.findings if each.verdict != "inside"]
    assert outside == [], found.notes
    assert {each.metric for each in found.findings} >= {"reward", "entropy", "grad_norm", "eval/avg@4"}
