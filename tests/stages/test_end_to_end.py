"""A Hugging Face checkpoint of another architecture and real GSM8K problems, through the command line."""

import json
import shutil
from pathlib import Path

import pytest
from places import SHARED_DATA
from transformers import AutoModelForCausalLM

from fastrl.cli.main import main
from fastrl.runtime.run import read_metrics

DATA = SHARED_DATA
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="real benchmark files are not next to the checkout")


def with_room(checkpoint: Path, folder: Path, tokens: int = 1024) -> Path:
    """The checkpoint with longer rotary positions: one of these problems is 555 bytes long."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": tokens}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@needs_data
def test_gsm8k_with_a_llama_and_a_receiver_of_another_family(checkpoints, tmp_path, capsys):
    run = tmp_path / "run"
    code = main(
        [
            "train", "rltr",
            "--run.dir", str(run),
            "--model.path", str(with_room(checkpoints["llama"], tmp_path / "llama")),
            "--model.gradient_checkpointing", "false",
            "--transfer.receiver.path", str(with_room(checkpoints["qwen3"], tmp_path / "qwen3")),
            "--transfer.slack_tokens", "8",
            "--data.path", str(DATA / "gsm8k_train.jsonl"),
            "--data.limit", "200",
            "--data.system_prompt", "null",
            "--rollout.num_prompts", "4",
            "--rollout.group_size", "2",
            "--rollout.max_new_tokens", "16",
            "--train.num_steps", "3",
            "--run.log_completions_every", "1",
        ]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines[1:]] == [1, 2, 3]
    assert "rewards/transfer/mean" in lines[-1] and "kl" in lines[-1]
    row = json.loads((run / "completions/step-000003.jsonl").read_text().splitlines()[0])
    assert row["cuts"][0]["continuations"] and "verdict" in row
    AutoModelForCausalLM.from_pretrained(run / "checkpoints/step-000003")


@needs_data
def test_prompts_that_the_model_cannot_hold_are_refused_before_it_is_loaded(checkpoints, tmp_path, capsys):
    arguments = ["--model.path", str(checkpoints["llama"]), "--data.path", str(DATA / "gsm8k_train.jsonl")]
    code = main(["train", "rlvr", "--run.dir", str(tmp_path / "run"), *arguments])
    message = capsys.readouterr().err
    assert code == 2 and message.startswith("fastrl: [") and "512" in message
    assert not (tmp_path / "run").exists()
