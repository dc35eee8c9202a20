"""A run against bands: where it left and by how much; other differences."""

import pytest
from compared import rl_lines, write_run, write_seeds

from fastrl.tools.compare.bands import Band
from fastrl.tools.compare.findings import compare_run, distance, false_alarms
from fastrl.tools.compare.reference import make_reference
from fastrl.tools.compare.runs import read_record


@pytest.fixture
def reference(tmp_path):
    return make_reference([read_record(folder) for folder in write_seeds(tmp_path)], "four")


def judged(reference, folder, lines=None, seed=9, **options):
    return compare_run(read_record(write_run(folder, seed, lines, **options)), reference)


def of(comparison, metric):
    [found] = [finding for finding in comparison.findings if finding.metric == metric]
    return found


def test_another_seed_is_inside(reference, tmp_path):
    lines = rl_lines(1.5)
    lines[7]["reward"] += 0.01  # 0.002 in the mean of its block
    found = judged(reference, tmp_path / "new", lines)
    assert not found.drifted and found.notes == ()
    assert {finding.metric for finding in found.findings} == {"reward", "entropy", "eval/avg@4"}
    reward = of(found, "reward")
    assert (reward.compared, reward.outside, reward.block) == (3, 0, (6, 10))
    assert reward.value == pytest.approx(0.817)
    assert reward.beyond == pytest.approx(0.002 / (reward.band.high - 0.815))


def test_where_it_left_and_by_how_much(reference, tmp_path):
    found = judged(reference, tmp_path / "new", rl_lines(1, reward=0.1))
    assert found.drifted
    reward = of(found, "reward")
    assert (reward.verdict, reward.block, reward.outside) == ("outside", (6, 10), 2)
    assert reward.value == pytest.approx(0.1)
    half = (reward.band.high - reward.band.low) / 2
    assert reward.beyond == pytest.approx((0.815 - 0.1) / half) and reward.beyond > 1
    assert of(found, "entropy").verdict == "inside"


def test_null_is_missing_and_a_metric_that_is_not_measured_then_is_passed_over(reference, tmp_path):
    found = judged(reference, tmp_path / "null", rl_lines(1, entropy=None))
    assert of(found, "entropy").verdict == "missing" and of(found, "entropy").block == (6, 10)
    assert found.drifted
    lines = rl_lines(1)
    for line in lines:
        line.pop("eval/avg@4", None)
    lines[0]["reward"] = 0.0
    lines[3]["eval/avg@4"] = 0.1
    assert of(judged(reference, tmp_path / "none", lines), "eval/avg@4").verdict == "missing"
    for line in lines[6:]:
        del line["entropy"]
    entropy = of(judged(reference, tmp_path / "later", lines), "entropy")
    assert (entropy.verdict, entropy.compared) == ("inside", 1)


def test_as_far_as_the_run_goes(reference, tmp_path):
    found = judged(reference, tmp_path / "short", rl_lines(1, steps=7, reward=9.0))
    assert not found.drifted and of(found, "reward").block == (1, 5)
    assert found.notes == ("rl: compared until step 7 of 10, where the run ends",)
    longer = judged(reference, tmp_path / "long", rl_lines(1, steps=14))
    assert not longer.drifted and longer.notes == ()
    with pytest.raises(ValueError, match=r"\[compare\] run: expected a block of steps in common with four"):
        judged(reference, tmp_path / "shorter", rl_lines(1, steps=3)[1:])


def test_another_configuration_is_an_error_that_names_the_options(reference, tmp_path):
    changed = {"train": {"learning_rate": 0.5}, "model": {"path": "elsewhere/other"}}
    with pytest.raises(ValueError) as error:
        judged(reference, tmp_path / "new", **changed)
    message = str(error.value)
    assert "rl model.path 'other', not 'generator'; rl train.learning_rate 0.5, not 1e-06" in message
    assert "--other_config true" in message
    found = compare_run(read_record(tmp_path / "new"), reference, other_config=True)
    assert found.notes[0] == "other configuration: rl model.path 'other', not 'generator'"


def test_what_does_not_count_as_another_configuration(reference, tmp_path):
    """Folders, steps, how often it is measured; an option that is spelled out with its default."""
    same = {
        "model": {"path": "/somewhere/else/generator"},
        "train": {"num_steps": 7, "learning_rate": 1e-6},
        "eval": {"every": 3},
    }
    assert not judged(reference, tmp_path / "new", rl_lines(1), **same).drifted


def test_other_versions_are_reported(reference, tmp_path):
    found = judged(reference, tmp_path / "new", rl_lines(1), packages=("torch", "2.14.0"))
    assert found.notes == ("other versions: torch 2.14.0, not 2.13.0",) and not found.drifted


def test_other_weights_are_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "world/generator/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    reference = make_reference([read_record(each) for each in write_seeds(tmp_path)], "four")
    assert list(reference.began_with) == ["generator"]
    assert judged(reference, tmp_path / "new", rl_lines(1)).notes == ()
    weights.write_bytes(b"two")
    [note] = judged(reference, tmp_path / "new", rl_lines(1)).notes
    assert note.startswith("other initial weights or data than the reference: generator")


def test_a_stage_that_the_reference_lacks_is_an_error(reference, tmp_path):
    other = write_run(tmp_path / "sft", 1)
    (other / "config.yaml").write_text("stage: sft\n")
    with pytest.raises(ValueError, match=r"\[compare\] run: expected a stage of four, which has rl, got sft"):
        compare_run(read_record(other), reference)


def test_leaving_one_out_finds_the_seed_that_is_unlike_the_others(tmp_path):
    folders = write_seeds(tmp_path, seeds=(0, 1, 2, 3, 4))
    write_run(tmp_path / "odd", 40)
    records = [read_record(folder) for folder in [*folders, tmp_path / "odd"]]
    alarms = dict(false_alarms(make_reference(records, "six")))
    assert {seed for seed, failed in alarms.items() if failed} == {40}
    assert "reward" in {finding.metric for finding in alarms[40]}


def test_distance_by_hand():
    band = Band(median=2.0, low=1.0, high=5.0, seeds=(2.0,))
    assert [distance(value, band) for value in (3.0, 5.0, 0.0, None)] == [0.0, 1.0, 1.5, None]
    flat = Band(median=0.0, low=0.0, high=0.0, seeds=(0.0,))
    assert distance(0.0, flat) == 0.0 and distance(1e-9, flat) > 1
