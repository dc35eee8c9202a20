"""Secrets stay in the trainer's environment; writes stay inside the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonl import write_jsonl

from fastrl.config import (
    DataConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.grading.process import GradingProcess
from fastrl.runtime.redact import for_graders, is_secret, shortened
from fastrl.tools.sweep.cells import combination_folder
from fastrl.train import run_stage

SECRETS = {
    "HF_TOKEN": "hf_q7verysecret", "WANDB_API_KEY": "wb_q7verysecret", "AWS_SESSION_TOKEN": "q7verysecret",
    "DB_PASSWORD": "db_q7verysecret", "HTTPS_PROXY": "http://me:px_q7verysecret@proxy:1",
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *SECRETS, "OPENAI_API_KEY", "GITHUB_PAT", "PGPASSWORD", "MYSQL_PWD", "GOOGLE_APPLICATION_CREDENTIALS",
        "SSH_AUTH_SOCK", "DATABASE_URL", "SLACK_WEBHOOK_URL", "apikey", "AZURE_STORAGE_CONNECTION_STRING",
        "SENTRY_DSN", "AWS_SECRET_ACCESS_KEY", "DATABASEURL", "GH_JWT", "BEARER", "SLACK_HOOK", "MONGOURI",
    ],
)  # fmt: skip
def test_secrets_by_name(name):
    assert is_secret(name) and for_graders({name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "HOME", "PWD", "PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH",
        "LANG", "TOKENIZERS_PARALLELISM", "TRITON_INTERPRET", "NCCL_DEBUG", "MASTER_ADDR", "HF_HOME",
        "FASTRL_CACHE",
    ],
)  # fmt: skip
def test_what_processes_need_is_none(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/ada", "~"),
        ("/home/ada/x:/home/ada/y", "~/x:~/y"),
        ("/home/adam/x", "/home/adam/x"),
        ("see '/home/ada'", "see '~'"),
        ("https://ada:pw@host/x and git@host", "https://***@host/x and git@host"),
    ],
)
def test_homes_and_credentials_are_cut(text, short):
    assert shortened(text, home="/home/ada") == shortened(text, home="/home/ada/") == short


def test_a_home_that_is_the_root_says_nothing():
    assert shortened("/usr/bin", home="/") == "/usr/bin"


def test_grading_processes_have_no_secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("A_PLAIN_SETTING", "not on the list")
    monkeypatch.setenv("TZ", "UTC")
    worker = GradingProcess(timeout_s=1.0)
    try:
        held = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
    finally:
        worker.kill()
    assert b"TZ=UTC" in held and b"PYTHONPATH=" in held and b"A_PLAIN_SETTING" not in held
    assert b"q7verysecret" not in held


def test_a_run_writes_no_secret_and_nothing_outside(checkpoints, tmp_path, monkeypatch):
    """A run with a model, an evaluation of texts, completions and a checkpoint."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    data = tmp_path / "problems.jsonl"
    # a problem tries to name a file of its own
    rows = [{"question": "1+1", "answer": "2", "id": "../../escaped", "path": "/escaped"}] * 4
    write_jsonl(data, rows)
    run_stage(
        RlConfig(
            run=RunConfig(dir=str(tmp_path / "runs/one"), log_completions_every=1),
            model=ModelConfig(path=str(checkpoints["qwen3"])),
            data=DataConfig(path=str(data)),
            rollout=RolloutConfig(num_prompts=2, group_size=2, max_new_tokens=4),
            reward=RewardConfig(functions=("reward_functions.vowels",), weights=(1.0,)),
            train=TrainConfig(num_steps=1),
        )
    )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).parts[0] for path in files} == {"problems.jsonl", "runs"}
    assert {path.relative_to(tmp_path).parts[1] for path in files if path != data} == {"one"}
    assert (tmp_path / "runs/one/completions/step-000001.jsonl") in files
    assert [path for path in files if b"q7verysecret" in path.read_bytes()] == []


@given(
    st.dictionaries(
        st.sampled_from(["model.path", "run.note", "train.learning_rate"]),
        st.one_of(
            st.text(), st.sampled_from(["..", "../..", "/etc", "a/../../b", ""]), st.floats(), st.none()
        ),
        min_size=1,
    )
)
def test_cells_of_a_sweep_are_folders_inside(values):
    sweep = Path("/somewhere/sweep")
    name = combination_folder(values)
    assert "/" not in name and "\0" not in name and name not in ("", ".", "..") and len(name) <= 255
    assert (sweep / name / "seed-0").resolve().is_relative_to(sweep)
