"""Reference files: written ones are read back; others are refused."""

import pytest
import yaml
from compared import rl_lines, write_run, write_seeds
from jsonl import read_jsonl

from fastrl.config.load import from_dict
from fastrl.tools.compare.picture import choose, draw_reference
from fastrl.tools.compare.reference import find_reference, make_reference, read_reference, write_reference
from fastrl.tools.compare.runs import differing, digest, options, read_record


def records(folders):
    return [read_record(folder) for folder in folders]


def test_what_is_written_is_read(tmp_path):
    made = make_reference(records(write_seeds(tmp_path)), "four", flags=["--train.num_steps=10"])
    file = write_reference(made, tmp_path / "new" / "four.jsonl")
    header, *rows = read_jsonl(file)
    assert header["seeds"] == [0, 1, 2, 3] and header["digest"] == digest(made.options)
    assert "run.seed" in header["options_left_out"] and header["options"] == {
        "rl": {"model.path": "generator"}
    }
    assert [(row["first"], row["last"]) for row in rows] == [(0, 0), (1, 5), (6, 10), (1, 10)]
    median, low, high = rows[1]["metrics"]["reward"]
    assert median == 0.315 and low < 0.3 and high > 0.33
    assert rows[1]["seeds"]["reward"] == [0.3, 0.31, 0.32, 0.33]
    read = read_reference(file)
    assert (read.name, read.seeds, read.flags, read.level) == ("four", (0, 1, 2, 3), made.flags, 0.99)
    assert read.bands["rl"][1, 5]["reward"].low == pytest.approx(
        made.bands["rl"][1, 5]["reward"].low, rel=1e-5
    )
    assert find_reference(str(file)) == file and find_reference("no-such-recipe") is None


@pytest.mark.parametrize("text", ["", "reward: 1\n", '{"a": 1}\n', '{"reference": "x"}\n[1]\n'])
def test_another_file_is_refused(tmp_path, text):
    file = tmp_path / "file.jsonl"
    file.write_text(text)
    with pytest.raises(
        ValueError, match=r"\[compare\] reference: expected a file written by fastrl compare --write"
    ):
        read_reference(file)


def test_runs_that_make_no_reference(tmp_path):
    folders = write_seeds(tmp_path, seeds=(0, 1))
    with pytest.raises(ValueError, match=r"expected one run, or at least 3 for a band, got 2"):
        make_reference(records(folders), "two")
    again = write_run(tmp_path / "again", 1)
    with pytest.raises(ValueError, match=r"expected runs of different seeds, got \[0, 1, 1\]"):
        make_reference(records([*folders, again]), "three")
    other = write_run(tmp_path / "other", 5, train={"learning_rate": 0.5})
    with pytest.raises(ValueError, match=r"rl train.learning_rate 1e-06, not 0.5, in seed-0 and other"):
        make_reference(records([*folders, other]), "three")
    empty = [write_run(tmp_path / f"empty-{seed}", seed, [{"step": 1}]) for seed in range(3)]
    with pytest.raises(ValueError, match="expected a metric that all runs have logged, got none"):
        make_reference(records(empty), "empty")


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run folder with config.yaml or pipeline.yaml"):
        read_record(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected a run that has logged a step"):
        read_record(write_run(tmp_path / "new", 0, []))


def test_a_pipeline_is_read_stage_by_stage(tmp_path):
    """Its stages as they were asked for: @sft is another stage's result and not a place."""
    config = {
        "stage": "pipeline",
        "run": {"seed": 4, "dir": str(tmp_path)},
        "sft": {
            "stage": "sft",
            "model": {"path": "a/b"},
            "data": {"path": "c.jsonl"},
            "schedule": "cosine",
            "train": {"learning_rate": 1e-5},
        },
        "rl": {"stage": "rl", "model": {"path": "@sft"}, "train": {"num_steps": 3}},
        "later": {"stage": "rl", "model": {"path": "@rl"}},
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for name in ("sft", "rl"):
        write_run(tmp_path / name, 4, rl_lines(4, steps=3))
    record = read_record(tmp_path)
    assert record.seed == 4 and list(record.stages) == ["sft", "rl"]
    assert record.options == {
        "sft": {"model.path": "b", "data.path": "c.jsonl", "train.lr_scheduler_type": "cosine"},
        "rl": {"model.path": "@sft"},
        "later": {"model.path": "@rl"},  # a stage that has logged nothing counts as well
    }
    config["later"]["rollout"] = {"group_size": 3}
    other = tmp_path / "other"
    other.mkdir()
    (other / "pipeline.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_run(other / "rl", 4, rl_lines(4, steps=3))
    assert differing(record, read_record(other).options) == ["later rollout.group_size 8, not 3"]
    assert record.stages["rl"].last == 3


def test_steps_count_where_the_learning_rate_depends_on_them():
    usual = from_dict({"stage": "sft"}).train.learning_rate
    config = {"stage": "sft", "train": {"num_steps": 7, "learning_rate": usual}}
    assert options(from_dict(config)) == {}
    name = "lr_scheduler_type"
    for falling in ("linear", "cosine"):
        config["train"][name] = falling
        assert options(from_dict(config)) == {f"train.{name}": falling, "train.num_steps": 7}
    # where it falls by default, too; there a constant one is what counts
    config = {"stage": "cpt", "train": {"num_steps": 7, "learning_rate": 2e-5, "weight_decay": 0.01}}
    assert options(from_dict(config)) == {"train.num_steps": 7}
    config["train"][name] = "constant"
    assert options(from_dict(config)) == {f"train.{name}": "constant"}


def test_a_picture_draws_first_what_has_left(tmp_path):
    reference = make_reference(records(write_seeds(tmp_path)), "four")
    assert choose(reference, []) == [("rl", "eval/avg@4"), ("rl", "reward"), ("rl", "entropy")]
    run = read_record(write_run(tmp_path / "new", 1, rl_lines(1, entropy=9.0)))
    from fastrl.tools.compare.findings import compare_run

    findings = compare_run(run, reference).findings
    assert choose(reference, findings)[0] == ("rl", "entropy")
    alone = draw_reference(reference, tmp_path / "alone.png").read_bytes()
    over = draw_reference(reference, tmp_path / "over.png", run, findings).read_bytes()
    assert alone[:4] == over[:4] == b"\x89PNG" and alone != over
