"""A recipe with missing files: one line says which options to set, before anything is loaded."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from jsonl import write_jsonl

from fastrl.cli.main import main
from fastrl.config import with_option
from fastrl.config.files import check_files, data_files
from fastrl.config.load import from_dict, load_config, recipe_names
from fastrl.train import main as train_main

FULL = [name for name in recipe_names() if not name.endswith(("-tiny", "-smol"))]
TINY = [name for name in recipe_names() if name.endswith("-tiny")]
SMOL = [name for name in recipe_names() if name.endswith("-smol")]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_recipe_says_what_to_set_and_its_example_is_enough(name, tmp_path, capsys):
    assert main(["train", name]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("fastrl: [")
    config = load_config(name)
    missing = [file.option for file in data_files(config) if not file.path.startswith("@")]
    wanted = message.split("; set ")[1].split(", for example")[0]
    assert set(missing) == set(re.findall(r"[\w.]+(?:path|held_out)", wanted)) and missing
    command, recipe, *flags = shlex.split(message.split("for example: fastrl ")[1])
    assert (command, recipe) == ("train", name)
    for flag, example in zip(flags[::2], flags[1::2], strict=True):
        (tmp_path / example).touch()
        config = with_option(config, flag.removeprefix("--"), example)
    check_files(config, name)


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_recipe_names_the_command_that_makes_its_world(name, capsys):
    assert main(["train", name]) == 2
    message = capsys.readouterr().err
    found = re.search(r"; `fastrl tiny(?: --(\w+) true)?` makes the tiny world$", message.strip())
    world = {"rlvr": None, "rltr": None, "sft": None, "int": "int", "weak": "weak", "tracelift": "tracelift"}
    assert found and found[1] == world[name.split("-")[0]]


@pytest.mark.parametrize("name", SMOL)
def test_a_smol_recipe_names_the_command_that_makes_its_folder(name, capsys):
    assert main(["train", name]) == 2
    assert capsys.readouterr().err.endswith("; `fastrl smol` makes it\n")


@pytest.mark.parametrize("name", [name for name in SMOL if name != "sft-smol"])
def test_a_smol_recipe_names_the_run_that_comes_before(name, capsys):
    rows = [{"prompt": f"{number} + 1", "solution": str(number + 1)} for number in range(8)]
    for end in ("train", "test"):
        write_jsonl(Path(f"smol-world/chains-{end}.jsonl"), rows)
    assert main(["train", name]) == 2
    assert capsys.readouterr().err.endswith("no such folder; `fastrl train sft-smol` makes it\n")


def test_the_module_says_the_same(capsys):
    assert train_main(["rlvr"]) == 2
    assert "set data.path (problems" in capsys.readouterr().err


def test_nothing_is_loaded_before_the_files_are_checked(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastrl.check", None)  # an import of it fails
    assert main(["train", "rlvr"]) == main(["train", "sft", "--dry-run"]) == 2
    assert capsys.readouterr().err.count("expected an existing file") == 2


@pytest.mark.parametrize(
    "stage, option, section",
    [
        ("cpt", "held_out", "[cpt] held_out"),
        ("reward_model", "eval_path", "[reward_model] eval_path"),
        ("rl", "eval.path", "[eval] path"),
        ("rl", "data.path", "[data] path"),
    ],
)
def test_one_file_that_is_missing(stage, option, section):
    Path("here.jsonl").touch()
    config = with_option(from_dict({"stage": stage}), "data.path", "here.jsonl")
    check_files(config, "mine.yaml")
    with pytest.raises(FileNotFoundError) as missing:
        check_files(with_option(config, option, "none.jsonl"), "mine.yaml")
    message = str(missing.value)
    assert message.startswith(f"{section}: expected an existing file, got 'none.jsonl'; set {option} (")
    assert f"fastrl train mine.yaml --{option} " in message


def test_a_path_that_is_not_set_is_missing_too():
    expected = r"\[data\] path: expected an existing file, got ''; set data.path"
    with pytest.raises(FileNotFoundError, match=expected):
        check_files(from_dict({"stage": "subset"}), "subset.yaml")


def test_what_an_earlier_stage_leaves_is_not_missing():
    Path("a.jsonl").touch()
    stages = {"hard_set": {"stage": "hard_set", "data": {"path": "a.jsonl"}}}
    stages["intervene"] = {"stage": "intervene", "data": {"path": "@hard_set/hard.jsonl"}}
    check_files(from_dict({"stage": "pipeline", **stages}), "both.yaml")
