"""Rewards built from a path and options, in TRL's own trainer; and what their constructors refuse."""

from __future__ import annotations

import pytest

from fastrl.integrations.rewards import answer_reward, format_reward, transfer_reward, uplift_reward


@pytest.mark.slow
def test_one_step_of_trl(checkpoints, tmp_path):
    trl = pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset
    from transformers import AutoTokenizer

    policy, receiver = str(checkpoints["qwen3"]), str(checkpoints["llama"])
    rewards = [
        answer_reward(answer_workers=1),
        format_reward(),
        transfer_reward(
            receiver, policy, max_new_tokens=6, num_cuts=2, slack_tokens=2, device="cpu", answer_workers=1
        ),
        uplift_reward(
            receiver, form="uplift", baseline_repeats=2, repeats=2, device="cpu", answer_workers=1,
            executor_options={"max_new_tokens": 4},
        ),
    ]  # fmt: skip
    rows = [
        {"prompt": [{"role": "user", "content": f"{n}+1?"}], "question": f"{n}+1?", "solution": str(n + 1)}
        for n in range(2)
    ]
    trainer = trl.GRPOTrainer(
        policy, rewards,
        trl.GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=2,
            max_completion_length=6, logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
            bf16=False,
        ),
        Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(policy),
    )  # fmt: skip
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {f"rewards/{name}/mean" for name in ("answer", "format", "transfer", "uplift")} <= logged.keys()
    (cuts,) = [trainer._logs["extra"]["cuts"]]
    assert [len(row) for row in cuts] == [2] * 4
    assert logged["transfer/num_with_answer"] + logged["transfer/num_without_answer"] == 8


def test_the_answer_and_the_form():
    texts = ["so \\boxed{7}", "7 it is", "\\boxed{8}"]
    assert answer_reward(answer_workers=1)([""] * 3, texts, solution=["7"] * 3) == [1.0, 0.0, 0.0]
    assert format_reward()([""] * 3, texts) == [1.0, 0.0, 1.0]
    assert format_reward(pattern=r".* it is")([""] * 3, texts) == [0.0, 1.0, 0.0]


def test_options_are_refused_by_name_before_a_model_is_loaded():
    with pytest.raises(TypeError, match="num_cut"):
        transfer_reward("no/such", "no/such", max_new_tokens=4, num_cut=2)
    with pytest.raises(ValueError, match=r"\[transfer\] num_cuts: expected > 0, got 0"):
        transfer_reward("no/such", "no/such", max_new_tokens=4, num_cuts=0)
    with pytest.raises(ValueError, match=r"\[uplift\] reward_model: expected a folder, as form is product"):
        uplift_reward("no/such")
    with pytest.raises(TypeError, match="temprature"):
        uplift_reward("no/such", form="uplift", executor_options={"temprature": 1})


@pytest.mark.process
def test_importing_registers_the_attention():
    """In a fresh interpreter, as a trainer that imports nothing else of ours."""
    import subprocess
    import sys

    program = (
        "from transformers import AttentionInterface, AttentionMaskInterface\n"
        "assert 'fastrl_prefix' not in AttentionInterface()\n"
        "import fastrl.integrations.transformers as ours\n"
        "assert ours.PREFIX in AttentionInterface() and ours.PREFIX in AttentionMaskInterface()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
