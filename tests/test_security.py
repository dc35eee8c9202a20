"""No code from files: only safetensors, no pickle, no remote code, wherever a model is loaded."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from places import ROOT
from safetensors.torch import load_file

from fastrl.check import check_model, load_tokenizer
from fastrl.check.model import CONVERSION
from fastrl.cli.doctor_model import DoctorOptions
from fastrl.cli.eval import EvalOptions
from fastrl.config import STAGES, CheckpointConfig, DataConfig, LoraConfig, ModelConfig
from fastrl.config.load import from_dict, read_yaml
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.policy.model import Policy

SOURCES = sorted(path for folder in ("fastrl", "kernels") for path in (ROOT / folder).rglob("*.py"))
CPU = torch.device("cpu")
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "datasets"}
UNSAFE_CALLS = {
    "torch.load",
    "numpy.load",
    "np.load",
    "pandas.read_pickle",
    "yaml.unsafe_load",
    "yaml.full_load",
}


@cache
def calls(path: Path) -> list[tuple[str, ast.Call]]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [(ast.unparse(node.func), node) for node in nodes if isinstance(node, ast.Call)]


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.slow
def test_nothing_reads_pickles():
    found = {(path.name, name) for path in SOURCES for name in imported(path) & UNSAFE_MODULES}
    found |= {(path.name, name) for path in SOURCES for name, _ in calls(path) if name in UNSAFE_CALLS}
    # TRL's trainer is given its prompts in a data set that is made in memory
    assert found == {("trl_trainer.py", "datasets")}
    loaders = {
        (path.name, {k.arg: ast.unparse(k.value) for k in node.keywords}.get("Loader"))
        for path in SOURCES for name, node in calls(path) if name == "yaml.load"
    }  # fmt: skip
    assert loaders == {("load.py", "_Loader")}  # which is a SafeLoader


def test_a_recipe_can_not_call_python(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stage: !!python/object/apply:os.mkdir [{tmp_path}/made]\n")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        read_yaml(recipe)
    assert not (tmp_path / "made").exists()


def test_every_model_is_loaded_from_safetensors_and_asks_about_code():
    wanted, seen = {"trust_remote_code"}, 0
    for path in SOURCES:
        for name, node in calls(path):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name.startswith("AutoModel") and name.endswith(".from_pretrained"):
                assert given.get("use_safetensors") == "True", (path.name, node.lineno)
            if name.startswith("Auto") and name.endswith(".from_pretrained"):
                assert wanted <= set(given) and given["trust_remote_code"] != "True", (path.name, node.lineno)
                seen += 1
    assert seen >= 8


def options_of(cls: type, path: str = "") -> list[tuple[str, object]]:
    found = []
    for each in fields(cls()) if is_dataclass(cls) else ():
        value = getattr(cls(), each.name)
        inner = type(value)
        found += (
            options_of(inner, f"{path}{each.name}.") if is_dataclass(inner) else [(path + each.name, value)]
        )
    return found


def test_remote_code_is_off_by_default():
    data = DataConfig(path="some.jsonl")
    found = [each for cls in STAGES.values() for each in options_of(cls)]
    trusted = {name: value for name, value in found if name.endswith("trust_remote_code")}
    assert len(trusted) >= 4 and set(trusted.values()) == {False}
    assert EvalOptions(data=data).trust_remote_code is DoctorOptions().trust_remote_code is False


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def bomb(checkpoints, tmp_path):
    """A checkpoint whose weights are a pickle with code in it, and the file that the code would write."""
    folder, mark = tmp_path / "bomb", tmp_path / "exploded"
    shutil.copytree(checkpoints["qwen3"], folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    return folder, mark


def test_unpickling_the_test_file_would_run_its_code(bomb):
    folder, mark = bomb
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert mark.exists()


def test_pickled_weights_are_refused_before_loading_with_the_conversion(bomb):
    folder, mark = bomb
    with pytest.raises(
        ValueError, match=r"\[transfer.receiver\] path: expected a folder with \*.safetensors"
    ) as told:
        check_model("transfer.receiver", CheckpointConfig(path=str(folder)))
    assert "pytorch_model.bin, a pickle" in str(told.value) and str(told.value).endswith(CONVERSION)
    assert not mark.exists()


@pytest.mark.parametrize("loader", ["policy", "engine", "reward model"])
def test_no_loader_opens_a_pickle(bomb, loader):
    folder, mark = bomb
    model = ModelConfig(path=str(folder))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        if loader == "policy":
            Policy.load(model, CPU)
        elif loader == "engine":
            TorchEngine.from_pretrained(str(folder), dtype=torch.float32, device=CPU)
        else:
            RubricModel.start(model, Rubric("math", 64), LoraConfig(), CPU, 0)
    assert not mark.exists()


def test_the_conversion_that_is_named_works(checkpoints, tmp_path):
    source, target = tmp_path / "from", tmp_path / "to"
    shutil.copytree(checkpoints["llama"], source)
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(weights, source / "pytorch_model.bin")
    code = CONVERSION.removeprefix('python -c "').removesuffix('"')
    exec(code.replace("'FROM'", repr(str(source))).replace("'TO'", repr(str(target))), {})
    converted = load_file(target / "model.safetensors")
    assert set(converted) == set(weights) and all(torch.equal(converted[k], weights[k]) for k in weights)


@pytest.fixture
def with_code(checkpoints, tmp_path):
    """A checkpoint of an architecture of its own, whose code leaves a file behind when it is imported."""
    folder, mark = tmp_path / "own_code", tmp_path / "ran"
    shutil.copytree(checkpoints["llama"], folder)
    about = json.loads((folder / "config.json").read_text())
    about |= {
        "model_type": "of_its_own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")
    return folder, mark


def test_a_checkpoints_code_does_not_run(with_code):
    folder, mark = with_code
    model = ModelConfig(path=str(folder))
    for load in (
        lambda: check_model("model", model),
        lambda: Policy.load(model, CPU),
        lambda: TorchEngine.from_pretrained(str(folder), dtype=torch.float32, device=CPU),
        lambda: load_tokenizer("model", model),
    ):
        try:
            load()
        except ValueError as error:
            assert "trust_remote_code" in str(error)
        assert not mark.exists()
    with pytest.raises(ValueError, match="trust_remote_code"):
        check_model("model", model)


@pytest.mark.parametrize(
    "name", ["../outside", "a/b", "/tmp/x", "..", "with space", "1st", "a.b", "", "stages", "class", 3]
)
def test_stage_names_are_folders_inside(name):
    with pytest.raises(ValueError, match=r"\[recipe\] stage: expected names of letters, digits and _"):
        from_dict({"stage": "pipeline", name: {"stage": "sft"}})


def test_good_stage_names():
    made = from_dict({"stage": "pipeline", "sft_2": {"stage": "sft"}, "rl": {"stage": "rl"}})
    assert list(made.stages) == ["sft_2", "rl"]
