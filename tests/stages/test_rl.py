"""The RL stage on tiny random checkpoints: through the same entry as any other."""

import json
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from forked import Forked, run_forked
from rank_processes import on_ranks, stages
from tiny_rl import curve, tiny_rl, write_additions
from transformers import AutoModelForCausalLM

import fastrl.stages.build
from fastrl import train
from fastrl.config import (
    CheckpointConfig,
    EvalConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.config.load import to_yaml
from fastrl.kernels.config import LossConfig
from fastrl.runtime.run import read_metrics
from fastrl.train import run_stage


@pytest.fixture
def problems(tmp_path):
    return write_additions(tmp_path / "problems.jsonl")


def config(checkpoints, problems, folder, **changes) -> RlConfig:
    base = tiny_rl(
        checkpoints["qwen3"], problems, folder,
        run=RunConfig(save_every=2, log_completions_every=1),
        rollout=RolloutConfig(num_prompts=4, group_size=4, max_new_tokens=12),
    )  # fmt: skip
    return replace(base, **changes)


def weights_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def same_weights(a, b) -> bool:
    left, right = weights_of(a), weights_of(b)
    return all((left[name] == right[name]).all() for name in left)


def test_a_run_writes_its_files(checkpoints, problems, tmp_path, capsys):
    evaluated = EvalConfig(path=str(problems), num_samples=2)
    final = run_stage(config(checkpoints, problems, tmp_path / "run", eval=evaluated))
    assert "step 4/4 | reward" in capsys.readouterr().err
    assert final == tmp_path / "run/checkpoints/step-000004"
    lines = curve(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    for name in ("reward", "reward_std", "rewards/answer/mean", "frac_reward_zero_std",
                 "entropy", "grad_norm",
                 "completions/mean_length", "clip_ratio/low_mean", "num_tokens",
                 "sampling/importance_sampling_ratio/mean"):  # fmt: skip
        assert name in lines[1], name
    assert any(name.startswith("eval/") for name in lines[0]) and any(n.startswith("eval/") for n in lines[4])
    rows = [
        json.loads(line) for line in (tmp_path / "run/completions/step-000001.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 16 and rows[0]["rewards"]["answer"] in (0.0, 1.0)
    # engine and trainer are two computations of the same numbers
    assert abs(lines[1]["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4
    weights_of(final)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(checkpoints, problems, tmp_path, terminal):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cfg = config(checkpoints, problems, tmp_path / name)
        run_stage(replace(cfg, run=replace(cfg.run, seed=seed)))
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert curve(tmp_path / "a") != curve(tmp_path / "c")
    assert "step 4 of 4" in terminal.text()
    assert same_weights(tmp_path / "a/checkpoints/step-000004", tmp_path / "b/checkpoints/step-000004")


def test_transfer_with_weight_zero_is_rlvr_bit_for_bit(checkpoints, problems, tmp_path):
    plain = config(checkpoints, problems, tmp_path / "rlvr")
    transfer = replace(
        plain,
        run=replace(plain.run, dir=str(tmp_path / "rltr")),
        reward=RewardConfig(functions=(*plain.reward.functions, "transfer"), weights=(1.0, 1.0, 0.0)),
        transfer=TransferConfig(receiver=CheckpointConfig(path=str(checkpoints["llama"])), slack_tokens=4),
    )
    run_stage(plain)
    run_stage(transfer)
    assert same_weights(tmp_path / "rlvr/checkpoints/step-000004", tmp_path / "rltr/checkpoints/step-000004")
    with_transfer, without = curve(tmp_path / "rltr"), curve(tmp_path / "rlvr")
    assert "rewards/transfer/mean" in with_transfer[1]
    shared = [{k: line[k] for k in other} for line, other in zip(with_transfer, without, strict=True)]
    assert shared == without


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": LossConfig(loss_type="gspo", kl_coef=0.01)},
        {
            "loss": LossConfig(loss_type="cispo", clip_eps_high=5.0),
            "train": TrainConfig(num_steps=2, epochs_per_batch=2),
        },
        {"reward": RewardConfig(functions=("answer", "reward_functions.vowels"), normalize_each=True)},
        {"rollout": RolloutConfig(num_prompts=4, group_size=4, max_new_tokens=12, dynamic_sampling=True)},
        {"model": ModelConfig(path="", gradient_checkpointing=True)},
    ],
    ids=["gspo+kl", "cispo+epochs", "normalize_each", "dynamic", "checkpointing"],
)  # fmt: skip
def test_variants_train(checkpoints, problems, tmp_path, changes):
    cfg = replace(config(checkpoints, problems, tmp_path / "run", train=TrainConfig(num_steps=2)), **changes)
    if not cfg.model.path:
        cfg = replace(cfg, model=replace(cfg.model, path=str(checkpoints["qwen3"])))
    run_stage(cfg)
    last = curve(tmp_path / "run")[-1]
    assert last["step"] == 2 and last["grad_norm"] > 0
    if cfg.rollout.dynamic_sampling:
        assert last["frac_reward_zero_std"] == 0
    if cfg.loss.kl_coef:
        assert "kl" in last


def run_until(recipe: Path, stop_at_step: int, metrics: Path) -> int:
    """Train in a process; kill -9 it once `stop_at_step` is logged, somewhere inside the next step."""
    training = Forked(train.main, [str(recipe)])
    while training.process.is_alive():
        if metrics.exists() and metrics.read_text().count("\n") > stop_at_step:
            time.sleep(0.03)
            training.process.kill()
        time.sleep(0.002)
    return training.ended().code


def test_a_run_killed_within_a_step_resumes_bit_for_bit(checkpoints, problems, tmp_path):
    recipes = {}
    for name in ("whole", "killed"):
        cfg = config(
            checkpoints, problems, tmp_path / name,
            train=TrainConfig(
                num_steps=30, learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=4, adam_beta1=0.8,
                adam_beta2=0.95, weight_decay=0.1, no_decay=("embed_tokens",),
            ),
        )  # fmt: skip
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(to_yaml(cfg))
    assert run_forked(train.main, [str(recipes["whole"])]).code == 0
    for step in (3, 9):
        assert run_until(recipes["killed"], step, tmp_path / "killed/metrics.jsonl") == -signal.SIGKILL
    assert run_forked(train.main, [str(recipes["killed"])]).code == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert same_weights(
        tmp_path / "killed/checkpoints/step-000030", tmp_path / "whole/checkpoints/step-000030"
    )


def test_two_ranks_learn_what_one_learns(checkpoints, problems, tmp_path):
    cfg = config(checkpoints, problems, tmp_path / "two", train=TrainConfig(num_steps=3, learning_rate=1e-3))
    on_ranks(2, stages, tmp_path / "found", cfg)
    run_stage(replace(cfg, run=replace(cfg.run, dir=str(tmp_path / "one"))))
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        for name in ("reward", "grad_norm", "entropy", "num_tokens"):
            if name in one:
                assert two[name] == pytest.approx(one[name], rel=1e-4), (one["step"], name)


def test_ranks_without_signal_do_not_wait_for_ever(checkpoints, problems, tmp_path):
    """A constant reward: no rank has a gradient, and nothing waits for ever."""
    cfg = config(
        checkpoints, problems, tmp_path / "flat", reward=RewardConfig(functions=("answer",), weights=(1.0,))
    )
    on_ranks(2, stages, tmp_path / "found", replace(cfg, train=TrainConfig(num_steps=1)))
    (line,) = [line for line in curve(tmp_path / "flat") if line["step"] == 1]
    assert line["grad_norm"] == 0 and line["frac_zero_advantage"] == 1


def test_a_receiver_that_is_the_start_is_the_reference_too(checkpoints, problems, tmp_path):
    """One model less, and the same run: log-probs of the reference come out of the receiver's prefill."""
    copy = tmp_path / "the same model elsewhere"
    shutil.copytree(checkpoints["qwen3"], copy)
    curves = {}
    for name, receiver in (("one", checkpoints["qwen3"]), ("two", copy)):
        changed = config(
            checkpoints, problems, tmp_path / name,
            reward=RewardConfig(functions=("transfer", "reward_functions.vowels"), weights=(1.0, 1.0)),
            transfer=TransferConfig(
                receiver=CheckpointConfig(path=str(receiver)), slack_tokens=4, num_cuts=2
            ),
            loss=LossConfig(kl_coef=0.5),
            train=TrainConfig(num_steps=2, learning_rate=1e-3),
        )  # fmt: skip
        run_stage(changed)
        curves[name] = curve(tmp_path / name)[1:]
    for one, two in zip(curves["one"], curves["two"], strict=True):
        assert one["kl"] == pytest.approx(two["kl"], rel=1e-3, abs=1e-7)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3)
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
        # the receiver reads whole rollouts in either case; their scores cost it nothing
        assert one["engine/receiver/prefill_tokens"] == two["engine/receiver/prefill_tokens"]
    assert curves["one"][1]["kl"] > 1e-6


def test_engine_counters_are_logged(checkpoints, problems, tmp_path):
    changed = config(
        checkpoints, problems, tmp_path / "run",
        reward=RewardConfig(functions=("transfer", "reward_functions.vowels"), weights=(1.0, 1.0)),
        transfer=TransferConfig(
            receiver=CheckpointConfig(path=str(checkpoints["llama"])),
            slack_tokens=4,
            num_cuts=2,
            num_continuations=3,
        ),
        train=TrainConfig(num_steps=1),
    )  # fmt: skip
    run_stage(changed)
    step = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert step["engine/policy/requests"] == 16
    assert step["engine/policy/generated_tokens"] == step["num_tokens"]
    assert step["engine/policy/prefill_tokens"] * 4 == step["engine/policy/prompt_tokens_asked"]
    assert step["engine/policy/prefill_saved"] == pytest.approx(0.75)
    assert step["engine/receiver/requests"] == 16 * 2 * 3
    assert 0 < step["engine/receiver/kv_tokens_read"] < step["engine/receiver/kv_tokens_asked"]
    assert 0 < step["engine/receiver/kv_reads_saved"] < 1
    assert step["time/receiver_decode_s"] > 0


def test_a_receiver_of_its_own_device_works_while_the_policy_samples(
    checkpoints, problems, tmp_path, monkeypatch
):
    """What it does in the meantime is what it would have done afterwards."""
    curves, order = {}, []
    build = fastrl.stages.build.build_rl

    def watched(config, checkpoint=None, overlap=True):
        parts = build(config, checkpoint)
        parts.overlap = overlap
        listen(parts.engine, "generate", "policy", order)
        listen(parts.frozen_engines["receiver"], "continue_prefixes", "receiver", order)
        return parts

    for overlap in (False, True):
        changed = config(
            checkpoints, problems, tmp_path / str(overlap),
            reward=RewardConfig(functions=("transfer", "reward_functions.vowels"), weights=(1.0, 1.0)),
            transfer=TransferConfig(
                receiver=CheckpointConfig(path=str(checkpoints["llama"])), slack_tokens=4
            ),
            rollout=RolloutConfig(num_prompts=5, group_size=4, max_new_tokens=12),
            train=TrainConfig(num_steps=2, learning_rate=1e-3),
        )  # fmt: skip
        monkeypatch.setattr("fastrl.stages.rl.build_rl", partial(watched, overlap=overlap))
        order.clear()
        run_stage(changed)
        curves[overlap] = curve(tmp_path / str(overlap))
        begun = [event for event in order if event[1] == "begins"]
        if overlap:
            assert [name for name, _ in begun].count("policy") == 4
            assert [name for name, _ in begun].count("receiver") == 4
        else:
            assert [name for name, _ in order] == ["policy", "policy", "receiver", "receiver"] * 2
    for plain, overlapped in zip(curves[False][1:], curves[True][1:], strict=True):
        for key in ("reward", "rewards/transfer/mean", "transfer/tau_mean", "num_tokens"):
            assert plain[key] == pytest.approx(overlapped[key], rel=1e-6), key


def listen(engine, method, name, order):
    run = getattr(engine, method)

    def heard(*arguments, **options):
        order.append((name, "begins"))
        found = run(*arguments, **options)
        order.append((name, "ends"))
        return found

    setattr(engine, method, heard)
