"""InT in miniature, killed with SIGKILL in every stage and between them: the same files, bit for bit."""

import json
import signal
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from intervention_world import problem_rows, write_rows
from killed_recipe import exit_codes

from fastrl.config.load import load_config

DEATHS = [
    "os.rename:/.pipeline.yaml.*.tmp:1",  # its folder holds nothing else
    "os.rename:hard_set/.config.yaml.*.tmp:1",
    "open:hard_set/progress.jsonl:2",  # the second chunk's work is done, and not written
    "os.rename:hard_set/.hard.jsonl.*.tmp:1",
    "os.mkdir:run/intervene:1",  # between two stages
    "open:intervene/progress.jsonl:2",
    "os.rename:intervene/.page.html.*.tmp:1",
    "open:sft/metrics.jsonl:3",  # two steps are done, and no checkpoint is there
    # a torn checkpoint, a whole one before it
    "open:sft/checkpoints/.step-000004.partial/trainer_state/state.json:1",
    "os.mkdir:run/rl:1",
    "open:rl/metrics.jsonl:2",
    "os.rename:rl/checkpoints/.step-000002.partial:1",
    "os.rename:rl/completions/.step-000004.jsonl.*.tmp:1",
]
DRAWN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 24}


def recipe(model: str) -> dict:
    """Paths are relative, so two runs in two folders have nothing in them that differs."""
    start, model = {"seed": 3, "device": "cpu", "dir": "run"}, {"path": model}
    terse = {
        "form": "short", "verify_template": "{question};{reference};{steps}", "between_steps": " ",
        "step_template": "{number}:{step}", "num_samples": 2, "temperature": 0.8, "top_p": 1.0, "top_k": 0,
        "verify_tokens": 48,
    }  # fmt: skip
    return {
        "stage": "pipeline",
        "run": start,
        "hard_set": {
            "stage": "hard_set", "model": model, "data": {"path": "problems.jsonl"}, "num_samples": 4,
            "sampling": DRAWN, "chunk_size": 2,
        },
        "intervene": {
            "stage": "intervene", "model": model, "data": {"path": "@hard_set/hard.jsonl"},
            "steps": {"min_chars": 1, "min_steps": 2}, "proposal": terse, "leak": "stated",
            "num_continuations": 4, "continuation": DRAWN, "chunk_size": 2,
        },
        "sft": {
            "stage": "sft", "run": {"save_every": 2}, "model": model, "batch_size": 2,
            "data": {"path": "@intervene/sft.jsonl"}, "max_entropy_rise": 50.0,
            "train": {"num_steps": 5, "learning_rate": 1e-3},
        },
        "rl": {
            "stage": "rl", "run": {"save_every": 2, "log_completions_every": 1}, "model": {"path": "@sft"},
            "data": {"path": "@hard_set/hard.jsonl"},
            "rollout": {"num_prompts": 2, "group_size": 4, "max_new_tokens": 24, "temperature": 1.5},
            "reward": {"functions": ["answer", "reward_functions.vowels"], "weights": [1.0, 1.0]},
            "train": {"num_steps": 4, "learning_rate": 1e-3},
            "eval": {"path": "problems.jsonl", "num_samples": 1},
        },
    }  # fmt: skip


def run(folder: Path, model: Path, deaths: list[str]) -> list[int]:
    """Exit codes of the runs: one for each death, and of the last one."""
    folder.mkdir()
    write_rows(folder / "problems.jsonl", problem_rows())
    (folder / "int.yaml").write_text(yaml.safe_dump(recipe(str(model)), sort_keys=False))
    return exit_codes(folder / "int.yaml", deaths)


def contents(folder: Path) -> dict[str, object]:
    """Every file of a run but for when and where it ran."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: untimed(path) if path.name == "metrics.jsonl" else path.read_bytes()
        for name, path in files.items()
        if path.name != "environment.json"
    }


def untimed(path: Path) -> list[dict]:
    lines = map(json.loads, path.read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


@pytest.fixture(scope="module")
def whole(fixed_model, tmp_path_factory):
    """What a run leaves that nothing interrupts."""
    folder = tmp_path_factory.mktemp("int") / "whole"
    assert run(folder, fixed_model, []) == [0]
    return folder / "run"


def test_the_miniature_has_something_to_lose(whole):
    """Work in every stage, so that equal files say something."""
    assert {path.name for path in whole.iterdir()} == {"pipeline.yaml", "hard_set", "intervene", "sft", "rl"}
    chunks = {name: len((whole / name / "progress.jsonl").read_text().splitlines()) for name in
              ("hard_set", "intervene")}  # fmt: skip
    assert min(chunks.values()) >= 3
    assert len((whole / "intervene/sft.jsonl").read_text().splitlines()) >= 2
    sft, rl = untimed(whole / "sft/metrics.jsonl"), untimed(whole / "rl/metrics.jsonl")
    assert [line["step"] for line in sft] == [0, 1, 2, 3, 4, 5] and "base/entropy" in sft[0]
    assert [line["step"] for line in rl] == [0, 1, 2, 3, 4] and "eval/avg@1" in rl[0]
    assert all(line["grad_norm"] > 0 for line in (*sft[1:], *rl[1:]))
    assert len(list((whole / "rl/completions").iterdir())) == 4


def test_killed_anywhere_it_ends_with_the_same_files(fixed_model, whole, tmp_path):
    codes = run(tmp_path / "killed", fixed_model, DEATHS)
    assert codes == [-signal.SIGKILL] * len(DEATHS) + [0]
    found, expected = contents(tmp_path / "killed" / "run"), contents(whole)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


# papers.md 4: the paper's tables and the release's scripts
PAPER = {
    "hard_set": {
        "num_samples": 64, "max_correct": 0, "keep_attempts": 4, "answer.timeout_s": 10.0,
        "sampling.temperature": 0.7, "sampling.top_p": 0.8, "sampling.top_k": 20,
        "sampling.max_new_tokens": 16384,
    },
    "intervene": {
        "proposal.form": "full", "proposal.num_samples": 4, "proposal.temperature": 0.7,
        "proposal.top_p": 0.8, "proposal.top_k": 20, "proposal.solve_tokens": 16384,
        "proposal.verify_tokens": 16384, "proposal.max_conversation_tokens": 30000, "leak": "anywhere",
        "num_continuations": 32, "continuation.temperature": 0.7, "continuation.top_p": 0.8,
        "continuation.top_k": 20, "continuation.max_new_tokens": 16384, "answer.timeout_s": 10.0,
    },
    "sft": {
        "batch_size": 64, "train.learning_rate": 1e-6, "train.lr_scheduler_type": "cosine",
        "train.min_lr_rate": 0.1,
        "prefix_weight": 1.0, "train.num_steps": round(4 * 2213 / 64),
        "train.warmup_steps": round(0.1 * 4 * 2213 / 64),
    },
    "rl": {
        "train.num_steps": 400, "rollout.group_size": 8, "rollout.num_prompts": 32,
        "train.updates_per_epoch": 32 // 16, "train.learning_rate": 1e-6, "loss.kl_coef": 0.0,
        "loss.entropy_coef": 0.0, "rollout.temperature": 1.0, "rollout.top_p": 1.0, "rollout.top_k": 0,
        "rollout.max_new_tokens": 16384, "reward.functions": ("answer",), "reward.scale": "none",
        "loss.loss_type": "grpo", "eval.temperature": 0.7, "eval.top_p": 0.8,
    },
}  # fmt: skip


def test_the_full_recipe_has_the_papers_numbers():
    recipe = load_config("int")
    found = {
        stage: {name: attrgetter(name)(getattr(recipe, stage)) for name in wanted}
        for stage, wanted in PAPER.items()
    }
    assert found == PAPER
