"""Folders from strangers: files can't lead out of them, and reading them always ends."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from fastrl.check import check_model
from fastrl.check.adapters import named_layers_exist
from fastrl.config import CheckpointConfig, LoraConfig, ModelConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.tracelift.trace_groups import write_groups
from fastrl.policy.checkpoint import STATE, TRAINER_STATE, damaged, digest, read_state
from fastrl.policy.model import Policy
from fastrl.policy.source import model_source
from fastrl.runtime.files import append_text, open_regular, replacing
from fastrl.runtime.run import is_free, write_atomic

CPU = torch.device("cpu")


def indexed(source: Path, folder: Path, name: object) -> Path:
    """A copy of a checkpoint whose weights are where its index says: in `name`."""
    shutil.copytree(source, folder)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", ["../base/part.safetensors", "/dev/zero", "a/../part.safetensors", "..", 3])
def test_an_index_names_weights_inside_its_folder(checkpoints, tmp_path, name):
    folder = indexed(checkpoints["llama"], tmp_path / "model", name)
    shutil.copytree(folder, tmp_path / "base")
    for load in (
        lambda: model_source(str(folder)),
        lambda: check_model("model", CheckpointConfig(path=str(folder))),
        lambda: Policy.load(ModelConfig(path=str(folder)), CPU),
        lambda: TorchEngine.from_pretrained(str(folder), dtype=torch.float32, device=CPU),
    ):
        with pytest.raises(ValueError, match=r"\[model\] path: expected weights inside"):
            load()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}', "[" * 100000])
def test_an_index_that_is_none_is_an_error_in_a_line(checkpoints, tmp_path, text):
    folder = indexed(checkpoints["llama"], tmp_path / "model", "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"\[model\] path: expected a weight_map"):
        model_source(str(folder))


def test_weights_are_regular_files_and_links_to_such(checkpoints, tmp_path):
    folder = indexed(checkpoints["llama"], tmp_path / "model", "part.safetensors")
    assert model_source(str(folder)) == str(folder)
    (folder / "part.safetensors").rename(tmp_path / "blob")
    (folder / "part.safetensors").symlink_to(tmp_path / "blob")
    assert model_source(str(folder)) == str(folder)  # as in the hub's cache
    (folder / "part.safetensors").unlink()
    os.mkfifo(folder / "part.safetensors")
    with pytest.raises(ValueError, match="expected weights in regular files"):
        model_source(str(folder))


def test_a_config_does_not_choose_the_engines_attention(checkpoints, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["llama"], folder)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"attn_implementation": "somebody/kernel"}))
    asked = []
    decide = PreTrainedModel._check_and_adjust_attn_implementation

    def recorded(model, name, *more, **options):
        asked.append(name)
        return decide(model, name, *more, **options)

    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", recorded)
    config = AutoConfig.from_pretrained(folder)
    assert config._attn_implementation == "somebody/kernel"
    TorchEngine.from_pretrained(str(folder), dtype=torch.float32, device=CPU)
    Policy.load(ModelConfig(path=str(folder)), CPU)
    lora = LoraConfig(rank=2, target_modules=("q_proj",))
    named_layers_exist("model.lora", ModelConfig(path=str(folder)), lora)
    assert len(asked) >= 3 and "somebody/kernel" not in asked


@pytest.fixture
def saved(tmp_path):
    """A checkpoint's folder with one file, and what its state may say of others."""
    folder = tmp_path / "checkpoints/step-000001"
    (folder / TRAINER_STATE).mkdir(parents=True)
    (folder / "weights").write_text("1")

    def says(files: object) -> Path:
        (folder / TRAINER_STATE / STATE).write_text(json.dumps({"files": files}))
        return folder

    return says


def test_a_state_names_regular_files_of_its_folder(saved, tmp_path):
    folder = saved({})
    assert damaged(saved({"weights": digest(folder / "weights")})) is None
    (tmp_path / "outside").write_text("1")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "link").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    for name in ("/dev/zero", "../../outside", "zero", "link/outside", "", "a\0b"):
        assert "which is outside the folder" in str(damaged(saved({name: "0"}))), name
    assert damaged(saved({"pipe": "0"})) == "pipe is not a regular file"
    assert damaged(saved(["weights"])) == f"{STATE} is unreadable"


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/full"])
def test_a_state_is_a_regular_file(saved, target):
    folder = saved({})
    (folder / TRAINER_STATE / STATE).unlink()
    (folder / TRAINER_STATE / STATE).symlink_to(target)
    assert read_state(folder) == {} and "unreadable" in str(damaged(folder))


def test_a_deeply_nested_state_is_unreadable(saved):
    folder = saved({})
    (folder / TRAINER_STATE / STATE).write_text("[" * 100000)
    assert read_state(folder) == {}


@pytest.mark.parametrize("write", [write_atomic, lambda path, text: write_groups(path, [])])
def test_links_that_wait_for_temporary_files_are_not_followed(tmp_path, write):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "run/data.jsonl"
    path.parent.mkdir()
    for name in (".data.jsonl.tmp", "data.jsonl.tmp", "data.jsonl"):
        (path.parent / name).symlink_to(victim)
    write(path, "new")
    assert victim.read_text() == "mine" and not path.is_symlink()
    assert sorted(each.name for each in path.parent.iterdir()) == [
        ".data.jsonl.tmp", "data.jsonl", "data.jsonl.tmp",
    ]  # fmt: skip


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "a", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_mode_that_others_have(tmp_path):
    write_atomic(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_file_is_not(tmp_path):
    path = tmp_path / "a"
    left = tmp_path / ".a.0123456789abcdef.tmp"
    left.write_text("torn")
    others = [tmp_path / ".b.0123456789abcdef.tmp", tmp_path / ".a.tmp"]
    for other in others:
        other.touch()
    with replacing(path) as outer:
        write_atomic(path, "inner")
        assert outer.exists() and not left.exists()
        outer.write_text("outer")
    assert path.read_text() == "outer"
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_a_kill_while_the_first_file_was_written_leaves_a_free_folder(tmp_path):
    (tmp_path / ".config.yaml.0123456789abcdef.tmp").write_text("torn")
    assert is_free(tmp_path, "config.yaml") and not is_free(tmp_path, "sweep.yaml")


def test_lines_are_not_appended_to_what_a_link_names(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="metrics"):
        append_text(tmp_path / "metrics.jsonl", "{}\n")
    assert not (tmp_path / "victim").exists()
    with pytest.raises(OSError, match="regular file"):
        open_regular(tmp_path)
