"""fastrl doctor MODEL: engine against trainer log-probs, and the environment's section of the page."""

from __future__ import annotations

import pytest
import torch

from fastrl.cli import doctor_model
from fastrl.cli.doctor_model import QUESTIONS, DoctorOptions, drift_findings, drift_lines
from fastrl.cli.main import main
from fastrl.config import DataConfig
from fastrl.policy.model import Policy
from fastrl.tools.doctor import machine as doctor
from fastrl.tools.doctor.environment import variables
from fastrl.tools.doctor.machine import Supported, judge_version

FEW = ("--max_new_tokens", "5", "--num_samples", "1")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_engine_and_trainer_agree(checkpoints, dtype):
    lines = drift_lines(
        str(checkpoints["qwen3"]), DoctorOptions(max_new_tokens=8, num_samples=2, dtype=dtype)
    )
    found = {line.subject: line for line in lines}
    assert {line.status for line in lines} <= {"ok", "info"}
    count = int(found["compared"].finding.split()[0])
    assert 16 <= count <= 16 * 8  # eight questions, two completions of one to eight tokens
    assert f"normal in {dtype}" in found["difference, mean"].finding


def test_a_drifted_trainer_is_detected(checkpoints, monkeypatch):
    """The engine has other weights than the trainer: it keeps what it was loaded with."""
    original = Policy.load

    def other(model, device):
        policy = original(model, device)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return policy

    monkeypatch.setattr(Policy, "load", other)
    monkeypatch.setattr("fastrl.engine.tree.engine.TorchEngine.load_weights", lambda *_: "")
    lines = drift_lines(str(checkpoints["qwen3"]), DoctorOptions(max_new_tokens=8, num_samples=1))
    assert [line.status for line in lines] == ["info", "fail", "fail", "info"]


def metrics(mean: float, most: float) -> dict[str, float]:
    named = {"drift/log_ratio/mean": mean, "drift/log_ratio/max": most, "num_tokens": 7.0}
    return named | {"drift/ess_tokens": 0.5, "drift/ess_sequences": 0.25, "drift/share_beyond_2x": 0.125}


@pytest.mark.parametrize(
    ("dtype", "mean", "most", "statuses"),
    [
        (torch.float32, 1e-4, 1e-2, ["ok", "ok"]),
        (torch.float32, 1.1e-4, 0.11, ["warn", "fail"]),
        (torch.bfloat16, 1.1e-4, 0.11, ["ok", "ok"]),
        (torch.bfloat16, 0.6, 19.0, ["fail", "warn"]),
    ],
)
def test_the_limits_depend_on_the_dtype(dtype, mean, most, statuses):
    compared, *differences, worth = drift_findings(metrics(mean, most), dtype, "vllm")
    assert [line.status for line in differences] == statuses
    assert compared.finding == "7 tokens that the vllm engine sampled"
    assert worth.finding == "0.5000 of tokens, 0.2500 of sequences; beyond 2x 12.50%"


def test_the_command(checkpoints, capsys, monkeypatch):
    assert main(["doctor", str(checkpoints["llama"]), *FEW]) == 0
    page = capsys.readouterr().out
    assert page.index("kernels") < page.index("environment") < page.index("\ndrift\n")
    assert max(map(len, page.splitlines())) <= 120
    monkeypatch.setattr(doctor_model, "NORMAL", {torch.float32: (0.0, 0.0)})
    assert main(["doctor", str(checkpoints["llama"]), *FEW]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_samples", "1"], "[doctor] MODEL: expected it before any flag"),
        (["./none"], "[doctor.MODEL] path: expected a model folder or hub name, got './none'"),
        (["MODEL", "--max_new_tokens", "5000"], "[doctor.MODEL] path: expected a model that holds"),
        (["MODEL", "--engine.device", "cuda:9"], "[engine] device: expected one of"),
    ],
)
def test_a_users_error_is_one_line(checkpoints, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(doctor_model, "machine_report", lambda: (True, ""))
    arguments = [str(checkpoints["qwen3"]) if word == "MODEL" else word for word in arguments]
    assert main(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_there_are_so_many_questions():
    with pytest.raises(ValueError, match=rf"num_prompts: expected <= {len(QUESTIONS)}, or data.path, got 9"):
        DoctorOptions(num_prompts=9)
    assert len(QUESTIONS) == 8 and DoctorOptions(num_prompts=9, data=DataConfig(path="x")).num_prompts == 9


def test_questions_of_a_file(checkpoints, tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "1+1", "answer": "2"}\n' * 3)
    options = DoctorOptions(max_new_tokens=1, num_samples=1, num_prompts=2, data=DataConfig(path=str(path)))
    assert drift_lines(str(checkpoints["qwen3"]), options)[0].finding.startswith("2 tokens")


def test_variables_without_secrets_and_homes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    shown = dict(
        variables(
            {
                "HF_TOKEN": "hf_verysecret",
                "WANDB_API_KEY": "0123456789",
                "HF_HOME": "/home/ada/cache:/home/adam/x",
                "OMP_NUM_THREADS": "2",
                "VLLM_URL": "https://u:pw@host/x",
                "TRITON_LONG": "x" * 200,
                "EDITOR": "vi",
            }
        )
    )
    assert shown == {
        "HF_TOKEN": "set, not shown",
        "WANDB_API_KEY": "set, not shown",
        "HF_HOME": "~/cache:/home/adam/x",
        "OMP_NUM_THREADS": "2",
        "VLLM_URL": "set, not shown",
        "TRITON_LONG": "x" * 89 + "…",
    }


def test_the_page_has_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-verysecret")
    _, page = doctor.machine_report()
    assert "HF_TOKEN" in page and "verysecret" not in page


def test_versions_next_to_the_tested_ones():
    table = Supported("2.11", "2.15", ("2.13.0", "2.14.1"))
    assert judge_version("torch", "2.13.0+cpu", table).finding == "2.13.0+cpu"
    other = judge_version("torch", "2.12.0", table)
    assert (other.status, other.finding) == ("ok", "2.12.0 (allowed; tested with 2.13.0 and 2.14.1)")
