"""The uplift reward is a TRL reward: its own trainer takes a step with it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import ExecutorConfig, UpliftConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.uplift import UpliftReward
from fastrl.methods.tracelift.verifiers import MathVerifier

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="TRL is not installed")


def test_one_step_of_trl(checkpoints, grader, tmp_path):
    folder = str(checkpoints["qwen3"])
    engine = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=torch.device("cpu")
    )
    config = UpliftConfig(form="uplift", baseline_repeats=2, executor=ExecutorConfig(max_new_tokens=4))
    reward = UpliftReward(Executor(engine, config.executor, MathVerifier(grader)), config, None, seed=0)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Plan: {n}+1?"}],
            "question": f"{n}+1?",
            "solution": str(n + 1),
        }
        for n in range(4)
    ]
    trainer = trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=[reward],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=2,
            max_completion_length=6, logging_steps=1, report_to="none", save_strategy="no", use_cpu=True,
            bf16=False,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["rewards/uplift/mean"] == 0.0
    assert logged["uplift/e2e"] == 0.0 and 0.0 <= logged["uplift/unfinished"] <= 1.0
    assert len(trainer._logs["extra"]["trace"]) == 4
    assert {key[0] for key in reward.executor._cache} <= {row["question"] for row in rows}
