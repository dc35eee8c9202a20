"""The wheel: its content, installation and use without a compiler, and what imports load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from places import ROOT

import fastrl

OWN = f"cp3{sys.version_info.minor}"
ABI = "cp312-abi3" if sys.version_info >= (3, 12) else f"{OWN}-{OWN}"
CODE = """
import sys, fastrl, torch
from fastrl.ops import group_advantage, linear_logprob
assert fastrl.__file__.startswith(sys.prefix), fastrl.__file__
advantages = group_advantage(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), scale="none", backend="cpp")
assert advantages.tolist() == [0.5, -0.5]
zeros = torch.zeros(3, 4), torch.zeros(8, 4), torch.tensor([0, 5, 7])
assert torch.allclose(linear_logprob(*zeros, backend="cpp").logprobs, -torch.tensor(8.0).log())
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = sorted((ROOT / "dist").glob(f"fastrl_llm-{fastrl.__version__}-{ABI}-*.whl"))
    if not found:
        pytest.skip(f"no wheel of {ABI} in dist/: make wheel")
    return found[-1]


def python(folder: Path, *arguments: str, **environment: str) -> str:
    """What a fresh interpreter says, that sees no programs on its PATH."""
    done = subprocess.run(
        [folder, *arguments],
        env={"PATH": str(folder.parent), **environment},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entries = archive.read(f"{folder}/entry_points.txt").decode()
    for source, target in (("fastrl", "fastrl"), ("kernels", "fastrl/kernels")):
        files = [path for end in ("py", "yaml", "jsonl") for path in (ROOT / source).rglob(f"*.{end}")]
        wanted = {f"{target}/{path.relative_to(ROOT / source)}" for path in files}
        assert wanted <= names, wanted - names
    (module,) = (name for name in names if name.endswith(".so"))
    assert module.startswith("fastrl/_C") and ("abi3" in module) == ("abi3" in ABI)
    assert "fastrl/_C.pyi" in names and f"{folder}/licenses/LICENSE" in names
    assert not [name for name in names if name.endswith((".cpp", ".cu", ".h", ".pyc"))]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert {"trl", "verl", "vllm", "peft"} <= set(metadata.get_all("Provides-Extra"))
    assert re.search(r"\[console_scripts\]\s+fastrl ?= ?fastrl\.cli\.main:main", entries)
    assert re.search(r"\[verl\.plugins\]\s+fastrl ?= ?fastrl\.integrations\.verl_plugin", entries)
    assert wheel.stat().st_size < 3 * 2**20


def test_it_installs_and_computes_without_a_compiler(wheel, tmp_path):
    venv.create(tmp_path, with_pip=False, symlinks=True)
    inside = tmp_path / "bin/python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(inside),
        "install",
        "--no-index",
        "--no-deps",
        str(wheel),
    ]
    done = subprocess.run(pip, env={"PATH": str(inside.parent)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = next(tmp_path.glob("lib/*/site-packages"))
    others = [folder for folder in sys.path if (Path(folder) / "torch").is_dir()]
    python(inside, "-c", CODE, PYTHONPATH=os.pathsep.join([str(here), *others]))


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("fastrl", "torch"),
        ("fastrl.config", "torch"),
        ("fastrl.cli.main", "torch"),
        ("fastrl.ops", "torch._dynamo"),
        ("fastrl.ops", "transformers"),
        ("fastrl.ops", "triton"),
    ],
)
def test_imports_that_need_not_be_are_not_made(module, heavy, tmp_path):
    code = f"import sys, {module}; assert {heavy!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
