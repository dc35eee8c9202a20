"""Runs or checks the commands of a shell block; the rules are in test_doc_blocks.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from doc_blocks import ROOT

from fastrl.cli import main as cli
from fastrl.cli.arguments import take_number
from fastrl.cli.compare import CompareOptions
from fastrl.cli.doctor_model import DoctorOptions
from fastrl.cli.eval import EvalOptions
from fastrl.cli.plot import PlotOptions
from fastrl.cli.report import ReportOptions
from fastrl.cli.smol import SmolOptions
from fastrl.config import DataConfig, PipelineConfig, Recipe, RlConfig
from fastrl.config.flags import parse_flags
from fastrl.config.load import find_recipe, from_dict, load_config, read_yaml, recipe_names
from fastrl.integrations.verl_data import write_parquet
from fastrl.tiny.reproduce.options import ReproduceOptions

AWAY = re.compile(r"^(Qwen|meta-llama|google|smol-world)/")
"""Models on the hub, and files of `fastrl smol`."""
OPTIONS = {
    "eval": EvalOptions, "doctor": DoctorOptions, "report": ReportOptions, "plot": PlotOptions,
    "compare": CompareOptions, "reproduce": ReproduceOptions, "smol": SmolOptions,
}  # fmt: skip
NUMBERS = ("--gpu_gib", "--nproc")
# flags that come last, and so hold
SHORT_RUN = """
    --train.num_steps 1 --rollout.num_prompts 2 --rollout.group_size 2 --rollout.max_new_tokens 8
    --eval.limit 2 --eval.num_samples 1 --eval.every 0"""
SHORT_EVAL = """
    --data.limit 2 --num_samples 2 --max_new_tokens 8 --num_cut 1 --taus 0.5 --num_continuations 1"""
SHORT_FAITHFULNESS = "--faithfulness.num_problems 2 --faithfulness.num_samples 2"
SHORT_DOCTOR = "--num_prompts 2 --num_samples 1 --max_new_tokens 8"


@dataclass(slots=True)
class Shell:
    """What the blocks of one page have done so far, in a folder that is the working directory."""

    folder: Path
    not_run: set[str] = field(default_factory=set)
    """Run folders of what was checked and not run."""

    def run(self, words: list[str]) -> None:
        """Raises AssertionError where the command is not what a user could type."""
        program, *rest = words
        if program == "fastrl":
            self.fastrl(*rest)
        elif program == "torchrun":
            torchrun(rest)
        elif program == "python":
            self.python(rest)
        elif program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(rest) <= set(targets), rest
        elif program == "pip":
            pip(rest)
        elif program == "docker":
            assert (ROOT / "Dockerfile").exists() and rest[0] in ("build", "run"), rest
        else:
            raise AssertionError(f"no rule for {program!r}: write one in doc_commands.py")

    def fastrl(self, command: str, *rest: str) -> None:
        given = list(rest)
        if command in ("train", "plan"):
            self.recipe(command, given)
        elif command in ("reproduce", "smol") or (command in OPTIONS and self.is_away(given)):
            start = next((i for i, word in enumerate(given) if word.startswith("-")), len(given))
            parse_flags(OPTIONS[command], None, given[start:], prog=command)
        else:
            if command == "eval":
                given += SHORT_EVAL.split()
                given += SHORT_FAITHFULNESS.split() if "--faithfulness.enabled" in given else []
            elif command == "doctor" and given:
                given += SHORT_DOCTOR.split()
            elif command == "sweep":
                given += ["--dry-run"]
            code = cli.main([command, *given])
            assert code == 0, f"fastrl {command} {' '.join(given)}: exit code {code}"

    def recipe(self, command: str, given: list[str]) -> None:
        name, *flags = given
        config = from_dict(read_yaml(find_recipe(name)))
        if not (name.endswith("-tiny") or Path(name).is_file()) or self.is_away(flags):
            for number in NUMBERS if command == "plan" else ():
                take_number(flags, command, number)
            loaded = load_config(name, [flag for flag in flags if flag != "--dry-run"])
            self.not_run.add(loaded.run.dir)
            return
        if command == "train" and not isinstance(config, RlConfig):
            flags += ["--dry-run"]
        folder = flags[flags.index("--run.dir") + 1] if "--run.dir" in flags else config.run.dir
        if "--dry-run" in flags:
            self.not_run.add(folder)
        elif command == "train":
            flags += SHORT_RUN.split()
            self.not_run.discard(folder)
        code = cli.main([command, name, *flags])
        assert code == 0, f"fastrl {command} {name} {' '.join(flags)}: exit code {code}"

    def is_away(self, words: list[str]) -> bool:
        """Return whether words name a hub model, a run that was not made, its stage, or a reference."""
        inside = tuple(f"{run}/" for run in self.not_run)
        unmade = {*self.not_run, *recipe_names()}
        return any(AWAY.match(word) or word in unmade or word.startswith(inside) for word in words)

    def python(self, rest: list[str]) -> None:
        assert rest[0] == "-m", rest
        module, *flags = rest[1:]
        if module == "fastrl.integrations.verl_data":
            source, target = flags
            assert write_parquet(DataConfig(path=source), Path(target))
            return
        if module == "verl.trainer.main_ppo":
            assert all(re.fullmatch(r"\+?[\w.]+=\S+", flag) for flag in flags), flags
            return
        file = ROOT / (module.replace(".", "/") + ".py")
        assert file.exists(), module
        known = file.read_text() + (ROOT / "bench/harness.py").read_text()
        for flag in flags:
            if flag.startswith("--"):
                assert f'"{flag}"' in known, f"python -m {module} has no {flag}"


def torchrun(rest: list[str]) -> None:
    """torchrun's own flags by its parser, the recipe's by ours."""
    from torch.distributed.run import get_args_parser

    asked = get_args_parser().parse_args(rest)
    assert asked.module and asked.training_script == "fastrl.train", rest
    recipe, *flags = asked.training_script_args
    config: Recipe = load_config(recipe, flags)
    assert isinstance(config, RlConfig | PipelineConfig), recipe


def pip(rest: list[str]) -> None:
    assert rest[0] == "install", rest
    text = (ROOT / "pyproject.toml").read_text()
    known = re.findall(r"^([a-z]+) = \[", text.split("[project.optional-dependencies]")[1], re.MULTILINE)
    for word in rest[1:]:
        for extras in re.findall(r"\[(.*)\]", word):
            assert set(extras.split(",")) <= set(known), word
