"""fastrl sweep with a stand-in for training: what runs, what is not repeated, what is refused."""

import csv
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from jsonl import write_jsonl
from places import TESTS

from fastrl.cli import sweep as cli_sweep
from fastrl.cli.main import main
from fastrl.config import RlConfig, with_option
from fastrl.config.load import load_config, to_yaml
from fastrl.tools.sweep.cells import Cell, cells, combination_folder, finished, safe, write_end
from fastrl.tools.sweep.grid import Grid, flags, resolve
from fastrl.tools.sweep.results import read_run

PRETENDED = str(TESTS / "pretended_training.py")
trained = cli_sweep.train_command


@pytest.fixture
def recipe(tmp_path, checkpoints, monkeypatch):
    (tmp_path / "problems.jsonl").write_text('{"question": "1+1=?", "answer": "2"}\n' * 4)
    config = {
        "stage": "rl",
        "run": {"device": "cpu"},
        "model": {"path": str(checkpoints["qwen3"])},
        "data": {"path": str(tmp_path / "problems.jsonl")},
        "rollout": {"num_prompts": 2, "group_size": 2, "max_new_tokens": 4},
        "train": {"num_steps": 4},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setattr(
        cli_sweep, "train_command", lambda grid, cell: [sys.executable, PRETENDED, *trained(grid, cell)[3:]]
    )
    return str(path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sweep"


def rows(folder):
    return {
        row["train.learning_rate"]: row for row in csv.DictReader((folder / "table.csv").open(newline=""))
    }


def starts(folder):
    """How often each run was started."""
    return {
        str(log.relative_to(folder)): sum(line.startswith("$ ") for line in log.read_text().splitlines())
        for log in sorted(folder.glob("*/*.log"))
    }


def test_a_grid_is_run_once_and_grows(recipe, folder, capsys):
    grid = ["sweep", recipe, "--dir", str(folder), "--vary", "train.learning_rate", "1e-3", "0.002"]
    assert main([*grid, "--seeds", "0", "1", "--metric", "reward"]) == 0
    out, shown = capsys.readouterr()
    assert "4 runs, 0 finished" in out and "run 4/4 | " in shown
    assert re.search(
        r"3/4  train.learning_rate=0.001/seed-1  \d+s \| reward 1.1 -> 1.4; about \d+s to go", out
    )
    found = rows(folder)
    # 0.1 * 4 + (0 or 1): mean 0.9, half = 12.7062 * 1 / 2
    assert float(found["0.001"]["reward end"]) == pytest.approx(0.9)
    assert float(found["0.001"]["reward end high"]) == pytest.approx(0.9 + 12.7062047 / 2)
    assert float(found["0.002"]["reward start"]) == pytest.approx(0.7)
    table = (folder / "table.md").read_text()
    assert "\nreward end\n  train.learning_rate=0.001  0.9 [-5.453, 7.253]\n" in out
    assert out.endswith(f"curves: fastrl plot {folder}/*/seed-*/ --out {folder}/curves.png\n")

    assert main([*grid, "--seeds", "0", "1", "--metric", "reward"]) == 0  # the same: nothing is started
    assert "4 runs, 4 finished" in capsys.readouterr().out
    assert set(starts(folder).values()) == {1} and (folder / "table.md").read_text() == table

    assert main([*grid, "0.004", "--seeds", "2", "1", "0"]) == 0
    assert "9 runs, 4 finished" in capsys.readouterr().out
    assert len(starts(folder)) == 9 and set(starts(folder).values()) == {1}
    found = rows(folder)
    assert [row["finished"] for row in found.values()] == ["3", "3", "3"]
    # seeds 0, 1, 2: s = 1, half = 4.30265 / sqrt(3)
    assert float(found["0.004"]["reward end low"]) == pytest.approx(1.6 + 1 - 4.3026527 / 3**0.5)
    assert float(found["0.004"]["eval/avg@4 end"]) == 0.25  # shown by default


def test_a_run_that_fails_stops_no_other_and_is_tried_again(recipe, folder, tmp_path, capsys):
    (tmp_path / "trouble").touch()
    grid = ["sweep", recipe, "--dir", str(folder), "--seeds", "0", "1", "--vary", "train.learning_rate"]
    assert main([*grid, "0.003", "0.001"]) == 1
    said = "exit code 2: fastrl: [train] learning_rate: expected less trouble, got 0.003"
    out = re.sub(r"after \d+s", "after 0s", capsys.readouterr().out)
    assert f"train.learning_rate=0.003/seed-0  failed after 0s, {said}" in out
    found = rows(folder)
    assert found["0.003"]["failed"] == f"seed 0, {said}; seed 1, {said}"
    assert (found["0.003"]["finished"], found["0.001"]["finished"]) == ("0", "2")
    assert main(["sweep", "--dir", str(folder), "--table"]) == 0
    assert "expected less trouble" in (folder / "table.md").read_text()
    (tmp_path / "trouble").unlink()
    assert main([*grid, "0.003", "0.001"]) == 0
    assert sorted(starts(folder).values()) == [1, 1, 2, 2]
    assert {row["failed"] for row in rows(folder).values()} == {""}


@pytest.mark.slow
def test_a_sweep_in_a_file(recipe, folder, tmp_path, capsys, terminal):
    asked = {
        "recipe": recipe,
        "fields": {"train.num_steps": 2},
        "vary": {"train.learning_rate": [1e-3, "2e-3"], "rollout.stop": [["a b", "c"]]},
        "seeds": [3],
        "metrics": ["reward"],
    }
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(asked))
    assert main(["sweep", str(tmp_path / "asked.yaml"), "--dir", str(folder)]) == 0
    assert float(rows(folder)["0.002"]["reward end"]) == pytest.approx(3.4)
    assert "run 2 of 2" in terminal.text()
    saved = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert saved == asked | {"vary": asked["vary"] | {"train.learning_rate": [0.001, 0.002]}}
    # what it saved is such a file; the command line goes before it
    again = ["sweep", str(folder / "sweep.yaml"), "--dir", str(folder), "--seeds", "3", "5"]
    assert main(again) == 0
    assert "4 runs, 2 finished" in capsys.readouterr().out
    assert main([*again, "--train.num_steps", "3"]) == 2
    assert "[sweep] fields: expected {'train.num_steps': 2} as in" in terminal.text()
    other = ["--train.learning_rate", "0.001", "--dry-run", "--dir", str(tmp_path / "other")]
    assert main(["sweep", str(folder / "sweep.yaml"), *other]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2 and all("--train.learning_rate=0.001" in each for each in commands)
    assert not (tmp_path / "other").exists()


def test_one_run_at_a_time_on_each_gpu(recipe, folder, tmp_path):
    (tmp_path / "slow").touch()
    grid = ["sweep", recipe, "--dir", str(folder), "--seeds", *"01234", "--gpus", "2", "5"]
    assert main([*grid, "--vary", "train.learning_rate", "0.001"]) == 0
    told = [json.loads(log.read_text().splitlines()[-1]) for log in folder.glob("*/*.log")]
    on = {gpu: sorted((each["began"], each["ended"]) for each in told if each["gpu"] == gpu) for gpu in "25"}
    assert len(on["2"]) + len(on["5"]) == 5 and min(map(len, on.values())) >= 1
    for spans in on.values():
        assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))
    assert any(
        one[0] < other[1] and other[0] < one[1] for one in on["2"] for other in on["5"]
    )  # side by side


@pytest.mark.parametrize(
    "words, message",
    [
        (["--vary", "loss.kl_coeff", "0"], "[sweep] loss.kl_coeff: expected an option of"),
        (["--vary", "loss.kl_coeff", "0"], "nearest are loss.kl_coef"),
        (["--vary", "loss", "0"], "[sweep] loss: expected an option of"),
        (["--data.pth", "x"], "[sweep] data.pth: expected an option of"),
        (["--vary", "loss.kl_coef", "0", "0.0"], "[sweep] vary.loss.kl_coef: expected values that differ"),
        (
            ["--vary", "run.seed", "1"],
            "[sweep] run.seed: expected another option than this, which seeds sets",
        ),
        (["--run.dir", "x"], "[sweep] run.dir: expected another option than this"),
        (["--vary", "loss.kl_coef"], "[sweep] vary: expected a field, once, and its values"),
        (
            ["--vary", "loss.kl_coef", "0", "--loss.kl-coef", "1"],
            "[sweep] vary.loss.kl_coef: expected it not to be set for all runs too",
        ),
        (["--seeds", "1", "x"], "[sweep] seeds: expected whole numbers, got '1 x'"),
        (["--seeds", "1", "1"], "[sweep] seeds: expected each once"),
        (["--seeds"], "[sweep] seeds: expected what follows it"),
        (["--gpus", "0", "0"], "[sweep] gpus: expected each once, got '0 0'"),
        (["--table"], "[sweep] table: expected only --dir and --metric next to it"),
        (
            ["--vary", "data.path", "PROBLEMS", "none.jsonl"],
            "[data] path: expected an existing file, got 'none.jsonl'; in data.path=none.jsonl/seed-0",
        ),
        (["extra"], "[sweep] arguments: expected an option, --name, got 'extra'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    words, message, recipe, folder, tmp_path, capsys
):
    words = [str(tmp_path / "problems.jsonl") if word == "PROBLEMS" else word for word in words]
    assert main(["sweep", recipe, *words, "--dir", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not folder.exists()


@pytest.mark.parametrize(
    "written, message",
    [
        ({"seed": [0]}, "expected keys among recipe, fields, vary, seeds, metrics, got 'seed'"),
        ({"seeds": 3}, "[sweep] seeds: expected a list, got 3"),
        ({"seeds": [True]}, "[sweep] seeds: expected whole numbers, at least one, got [True]"),
        ({"vary": {"loss": {"kl_coef": [0]}}}, "[sweep] vary.loss: expected a list of values"),
        ({"recipe": None}, "expected recipe, a name or a path, got None"),
    ],
)
def test_a_wrong_file_is_refused(written, message, recipe, folder, tmp_path, capsys):
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({"recipe": recipe} | written))
    assert main(["sweep", str(tmp_path / "asked.yaml"), "--dir", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_folders_and_requests_that_do_not_fit(recipe, folder, tmp_path, capsys):
    def refused(*words):
        assert main(["sweep", *words]) == 2
        return capsys.readouterr().err

    assert "[sweep] dir: expected a folder" in refused(recipe)
    assert "[sweep] RECIPE: expected it before any flag" in refused("--dir", str(folder))
    assert "expected a folder with sweep.yaml" in refused("--dir", str(folder), "--table")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert "is not empty and holds no sweep" in refused(recipe, "--dir", str(tmp_path / "mine"))
    grid = [recipe, "--dir", str(folder), "--seeds", "0", "1", "--vary"]
    assert main(["sweep", *grid, "train.learning_rate", "0.001", "0.002"]) == 0
    capsys.readouterr()
    fewer = refused(*grid, "train.learning_rate", "0.002")
    assert "[sweep] vary.train.learning_rate: expected [0.001] among them" in fewer
    more = refused(*grid, "train.learning_rate", "0.001", "0.002", "--vary", "data.limit", "2")
    assert "[sweep] vary: expected the fields of the folder's sweep, ['train.learning_rate']" in more
    assert main(["sweep", "--help"]) == 0 and "--vary FIELD VALUE" in capsys.readouterr().out


def test_a_value_of_the_wrong_type_is_named(recipe, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["sweep", recipe, "--dir", str(folder), "--vary", "train.num_steps", "2", "many"])
    assert ended.value.code == 2 and "--train.num_steps" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.slow
def test_values_are_read_as_flags_read_them(recipe):
    vary = {
        "data.limit": ["null", "3"],
        "model.gradient_checkpointing": ["true"],
        "reward.functions": ["answer", "answer format"],
        "reward.weights": ["1", "1 0.5"],
        "data.system_prompt": ["-x y", ""],
    }
    with pytest.raises(SystemExit):  # one function and two weights, among others
        resolve(Grid(recipe=recipe, vary=vary))
    vary |= {"reward.weights": ["1"], "reward.functions": ["answer"]}
    grid, configs = resolve(Grid(recipe=recipe, vary=vary))
    assert grid.vary == {
        "data.limit": [None, 3],
        "model.gradient_checkpointing": [True],
        "reward.functions": [["answer"]],
        "reward.weights": [[1.0]],
        "data.system_prompt": ["-x y", ""],
    }
    # what a run is started with says the same
    for combination, config in zip(grid.combinations, configs, strict=True):
        assert load_config(recipe, flags(combination)) == config
    both, _ = resolve(
        Grid(recipe=recipe, fields={"reward.functions": "answer format", "reward.weights": "1 0.5"})
    )
    assert both.fields == {"reward.functions": ["answer", "format"], "reward.weights": [1.0, 0.5]}


def test_folders_have_readable_names_that_distinguish_values():
    assert [safe(value) for value in (0.001, 1e-6, 2.0, 3, None, True, ["a", "b"])] == [
        "0.001", "1e-06", "2", "3", "null", "true", "a+b",
    ]  # fmt: skip
    names = [
        safe(value) for value in ("x/a.jsonl", "y/a.jsonl", "a.jsonl", "a b", "a_b", "", "n" * 300, "m" * 300)
    ]
    assert len({safe(value) for value in (["a", "b"], ["a+b"], [], [""])}) == 4
    assert len(set(names)) == len(names) and max(map(len, names)) < 80
    assert names[0].startswith("a.jsonl~") and names[2] == "a.jsonl"
    long = [combination_folder({f"field{i}": "v" * 50 for i in range(6)} | {"z": last}) for last in (1, 2)]
    assert long[0] != long[1] and max(map(len, long)) < 250
    sweep = cells(Grid(recipe="r", vary={"b": [1], "a": ["x"]}, seeds=[0, 7]), Path("d"))
    assert [str(cell.folder) for cell in sweep] == ["d/a=x,b=1/seed-0", "d/a=x,b=1/seed-7"]
    assert sweep[0].name == "a=x,b=1/seed-0"
    alone = cells(Grid(recipe="r"), Path("d"))
    assert [cell.name for cell in alone] == ["seed-0"] and str(alone[0].log) == "d/seed-0.log"


def test_a_run_is_unfinished_if_more_steps_are_requested(tmp_path):
    cell = Cell(values={}, seed=0, folder=tmp_path / "seed-0")
    config = RlConfig()
    assert not finished(cell, config)
    write_end(cell, config, 0)
    assert not finished(cell, config)  # its folder is gone
    cell.folder.mkdir()
    assert finished(cell, config)
    assert not finished(cell, with_option(config, "train.num_steps", 101))
    write_end(cell, config, -9)
    assert not finished(cell, config)


def test_a_folder_in_which_another_recipe_ran_is_refused(recipe, folder, capsys):
    grid = ["sweep", recipe, "--dir", str(folder)]
    assert main(grid) == 0
    config = load_config(recipe, ["--run.dir", str(folder / "seed-0")])
    (folder / "seed-0/config.yaml").write_text(to_yaml(config))
    assert main(grid) == 0
    Path(recipe).write_text(Path(recipe).read_text() + "loss: {kl_coef: 0.5}\n")
    capsys.readouterr()
    assert main(grid) == 2
    assert (
        "got one whose loss.kl_coef differ; choose another folder, or the recipe" in capsys.readouterr().err
    )


def test_a_pipelines_metrics_are_those_of_its_last_rl_stage(checkpoints, tmp_path):
    cell = Cell(values={}, seed=0, folder=tmp_path / "seed-0")
    stages = {"stage": "pipeline", "run": {"dir": str(cell.folder)}}
    for name, stage, lines in (
        ("sft", "sft", [{"step": 1, "loss": 2.0}]),
        ("rl", "rl", [{"step": 0, "eval/avg@4": 0.5}, {"step": 3, "reward": 1.0}]),
        ("last", "sft", [{"step": 9, "loss": 1.0}]),
    ):
        stages[name] = {"stage": stage}
        (cell.folder / name).mkdir(parents=True)
        write_jsonl(cell.folder / name / "metrics.jsonl", lines)
    (cell.folder / "pipeline.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    run = read_run(cell, ["reward", "sft.loss", "eval/avg@4"])
    assert run.series("sft.loss") == ([1], [2.0])
    assert run.series("reward") == ([3], [1.0])
    assert run.series("eval/avg@4") == ([0], [0.5])
    assert run.lines[-1]["step"] == 3 and run.series("loss") == ([], [])


def test_a_pipeline_is_swept_by_its_stages_fields(recipe, folder, tmp_path, capsys):
    stage = yaml.safe_load(Path(recipe).read_text())
    del stage["run"]
    write_jsonl(tmp_path / "talk.jsonl", [{"prompt": "1+1=?", "completion": "2"}])
    sft = {"stage": "sft", "model": stage["model"], "data": {"path": str(tmp_path / "talk.jsonl")}}
    pipeline = {"stage": "pipeline", "sft": sft, "rl": stage | {"model": {"path": "@sft"}}}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    grid = ["sweep", str(tmp_path / "pipeline.yaml"), "--dir", str(folder), "--dry-run", "--vary"]
    assert main([*grid, "rl.train.learning_rate", "1", "2"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["--run.seed=0"] * 2
    assert main([*grid, "rl.data.path", "none.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "[rl.data] path: expected an existing file, got 'none.jsonl'; in rl.data.path=none.jsonl" in error
