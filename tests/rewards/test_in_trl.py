"""The rewards work in TRL's own trainer."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import TransferConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.rltr.transfer import TransferReward
from fastrl.rewards import AnswerReward, FormatReward

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="TRL is not installed")


def test_one_step_of_trl(checkpoints, grader, tmp_path):
    folder = str(checkpoints["qwen3"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    receiver = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )
    rows = [{"prompt": [{"role": "user", "content": f"{n}+1?"}], "solution": str(n + 1)} for n in range(4)]
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    config = TransferConfig(num_cuts=2, slack_tokens=2)
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        processing_class=tokenizer,
        reward_funcs=[
            AnswerReward(grader),
            FormatReward(),
            TransferReward(receiver, tokenizer, grader, config, max_new_tokens=6, seed=0),
        ],
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for name in ("answer", "format", "transfer"):
        assert logged[f"rewards/{name}/mean"] == 0.0
    assert 0.0 <= logged["verify/no_answer"] <= 1.0
    assert logged["transfer/num_with_answer"] + logged["transfer/num_without_answer"] == 8
    assert 0.0 < logged["transfer/tau_mean"] <= 1.0
    (cuts,) = [trainer._logs["extra"]["cuts"]]
    assert [len(row) for row in cuts] == [2] * 4
    assert len(trainer._logs["extra"]["verdict"]) == 4
