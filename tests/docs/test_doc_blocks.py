"""Every fenced block of README.md, CONTRIBUTING.md and docs/ is run, or checked if it can't run here.

The blocks of a page run from top to bottom in an empty folder. By kind of block:
  python  run, all of a page in one namespace; skipped with a reason if a package in OPTIONAL is missing.
  yaml    a recipe that begins with `# name.yaml`; written to that file and loaded. `# name.py` likewise.
  sh      every line by its first word:
    fastrl    run in this process. `fastrl tiny` makes a world of untrained models. Runs of *-tiny recipes
              and of recipes on the page get flags that shorten them (SHORT_... in doc_commands.py);
              pipelines and sweeps get --dry-run. If a line names a hub model, a full-size recipe, a recipe's
              reference or a run that does not exist, its flags are parsed and checked, but nothing runs; the
              same for `fastrl reproduce`, `fastrl smol` and its files.
    torchrun  torchrun's flags are parsed by its own parser, the recipe and its flags by ours.
    python -m bench.X   the module exists and has these flags.
    make, pip, docker   the targets, the extras, the Dockerfile exist.
  text    what a command prints; it is not run.
Any other kind and any other program is a failure.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import replace

import pytest
import yaml
from doc_blocks import PAGES, ROOT, Block, blocks, page_name
from doc_commands import Shell
from small_world import CONFIG as PLAIN

from fastrl.config.load import load_config
from fastrl.tiny.interventions import make as int_world
from fastrl.tiny.interventions.config import IntConfig
from fastrl.tiny.tracelift import make as lift
from fastrl.tiny.tracelift import teach as lift_teach
from fastrl.tiny.tracelift.config import LessonConfig, LiftConfig
from fastrl.tiny.weak import make as weak_world
from fastrl.tiny.weak.config import WeakConfig
from fastrl.tiny.world import make as world
from fastrl.tiny.world import teach

OPTIONAL = ("trl", "verl", "datasets", "ray")
LESSON = LessonConfig(num_steps=1, batch_size=1)
SMALL = {
    world: ("WorldConfig", PLAIN),
    lift: (
        "LiftConfig",
        LiftConfig(world=PLAIN, num_seeds=12, planner=LESSON, executor=LESSON, held_out_executor=LESSON),
    ),
    int_world: (
        "IntConfig",
        IntConfig(world=replace(PLAIN, style_shares=(1.0, 0.0, 0.0), num_wrong_entries=18)),
    ),
    weak_world: (
        "WeakConfig",
        WeakConfig(world=replace(PLAIN, num_train=128), mix_steps=1, num_texts=5, num_traces=30),
    ),
}
"""What `fastrl tiny` makes in place of its defaults."""


def untaught(recipe, folder) -> None:
    """In place of teach.learn: the model that training would begin with."""
    shutil.copytree(yaml.safe_load(recipe.read_text())["model"]["path"], folder)
    shutil.rmtree(recipe.parent)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shell(cache, tmp_path, monkeypatch) -> Shell:
    monkeypatch.setenv("FASTRL_CACHE", str(cache))
    for module in (teach, int_world, lift_teach, weak_world):
        monkeypatch.setattr(module, "learn", untaught)
    for module, (name, config) in SMALL.items():
        monkeypatch.setattr(module, name, lambda config=config: config)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Shell(tmp_path)


def missing(block: Block) -> list[str]:
    """Packages that a Python block needs and this environment has not."""
    wanted = [name for name in OPTIONAL if f"import {name}" in block.text or f"from {name}" in block.text]
    wanted += ["ray"] if "verl" in wanted else []
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def carry_out(block: Block, shell: Shell, names: dict) -> None:
    if block.kind not in ("python", "yaml", "sh", "text"):
        raise AssertionError(f"no rule for blocks of kind {block.kind!r}")
    if block.file:
        (shell.folder / block.file).write_text(block.text)
    if block.kind == "yaml":
        assert block.file, "expected a first line `# name.yaml`"
        load_config(block.file)
    elif block.kind == "python" and not block.file:
        exec(compile(block.text, "block", "exec"), names)
    elif block.kind == "sh":
        for words in block.commands:
            shell.run(words)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_blocks(page, shell):
    names, lacking = {"__name__": "__main__"}, []
    for block in blocks(page):
        if lacking and block.kind == "python":
            continue
        lacking += missing(block) if block.kind == "python" else []
        if not lacking or block.kind != "python":
            print(f"{page.relative_to(ROOT)}, block at line {block.line}")
            carry_out(block, shell, names)
    sys.modules.pop("my_rewards", None)
    if lacking:
        pytest.skip(f"the Python blocks need {', '.join(lacking)}; all others ran")


@pytest.mark.parametrize(
    "words",
    [
        ["fastrl", "fly"],
        ["rm", "-r", "/"],
        ["make", "tea"],
        ["pip", "install", "fastrl[tea]"],
        ["python", "-m", "bench.bench_step", "--fast"],
        ["fastrl", "train", "rlvr", "--train.speed", "3"],
        ["torchrun", "--nproc-per-node", "2", "-m", "fastrl.train", "rlvr", "--train.speed", "3"],
        ["fastrl", "eval", "Qwen/Q", "--data.path", "x.jsonl", "--speed", "3"],
    ],
    ids=" ".join,
)
def test_what_a_user_could_not_type_is_found(words, shell):
    with pytest.raises((AssertionError, SystemExit)):
        shell.run(words)
