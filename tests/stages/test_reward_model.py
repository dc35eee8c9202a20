"""The reward-model stage: batches, micro-batches, learning, stop and resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import as_before
from reward_model_world import KINDS, config_of, group, write

from fastrl.check.reward_model import check_reward_model
from fastrl.config import (
    LoraConfig,
)
from fastrl.data.order import ProblemOrder
from fastrl.methods.tracelift.rubric import RubricScorer
from fastrl.methods.tracelift.rubric_batches import draw_batch, draw_traces, encode_groups, read_task_groups
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.policy import lora
from fastrl.stages.reward_model import accumulate, run_reward_model

CPU = torch.device("cpu")


def lines_of(config):
    with open(f"{config.run.dir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def started(config):
    rubric = Rubric(config.task, config.max_tokens)
    model = RubricModel.start(config.model, rubric, replace(config.lora, dropout=0.0), CPU, 0)
    torch.nn.init.normal_(model.network.heads.weight, 0, 0.3, generator=torch.Generator().manual_seed(0))
    return model


def encoded(config, model):
    return list(encode_groups(read_task_groups(config.data.path, "math"), model.tokenizer, model.rubric))


def test_a_step_draws_by_its_number(checkpoints, tmp_path):
    config = config_of(checkpoints["qwen3"], tmp_path)
    groups = encoded(config, started(config))
    order = ProblemOrder(len(groups), 3)
    steps = [draw_batch(groups, order, config, step) for step in range(40)]
    assert steps[7] == draw_batch(groups, ProblemOrder(len(groups), 3), config, 7)
    drawn = [(k, traces) for k, traces in enumerate(traces for batch in steps for traces in batch)]
    owner = {each: index for index, g in enumerate(groups) for each in (*g.positives, *g.negatives)}
    chosen = {}
    for k, traces in drawn:
        of = groups[owner[traces[0]]]
        assert len(traces) == 5
        assert traces[0] in of.positives
        assert set(traces[1:]) <= set(of.negatives)
        assert len(set(traces[1:])) == min(4, len(of.negatives))  # all of them where there are three
        chosen.setdefault(owner[traces[0]], []).append((k // 11, tuple(traces)))
    for index, of in chosen.items():
        epochs = [epoch for epoch, _ in of]
        assert epochs == sorted(set(epochs))  # once an epoch
        assert {traces[0] for _, traces in of} == set(groups[index].positives)
        assert {each for _, traces in of for each in traces[1:]} == set(groups[index].negatives)
        assert len({traces for _, traces in of}) > 1


def test_negatives_again_are_drawn_among_all(checkpoints, tmp_path):
    config = config_of(checkpoints["qwen3"], tmp_path)
    three = encoded(config, started(config))[0]
    assert len(three.negatives) == 3
    extra = [draw_traces(three, 5, seed)[4:] for seed in range(60)]
    assert {each for pair in extra for each in pair} == set(three.negatives)
    assert any(pair[0] == pair[1] for pair in extra)


def test_labels(checkpoints, tmp_path):
    config = config_of(checkpoints["qwen3"], tmp_path)
    first = encoded(config, started(config))[0]
    # 9 is level 4, 1 is level 0; math: understanding, strategy, coherence, calculation, answer
    assert first.positives[0].levels == (4, 4, 4, 4, 4)
    assert [each.levels for each in first.negatives] == [(4, 4, 4, 0, 4), (4, 4, 0, 4, 4), (4, 0, 4, 4, 4)]
    assert [each.total for each in first.negatives] == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2"])
@pytest.mark.parametrize("rank", [0, 2])
def test_neither_cuts_nor_sharing_change_the_gradient(checkpoints, tmp_path, family, rank):
    config = config_of(checkpoints[family], tmp_path, rank=rank)

    def gradients(budget, share, recompute=False):
        model = replace(config.model, share_prefixes=share, gradient_checkpointing=recompute)
        one = replace(config, model=model)
        one = replace(one, train=replace(config.train, tokens_per_microbatch=budget))
        model = started(one)
        groups = encoded(one, model)
        parts, tokens = accumulate(model, draw_batch(groups, ProblemOrder(11, 3), one, 0), one)
        return parts, tokens, {n: p.grad for n, p in model.network.named_parameters() if p.requires_grad}

    wanted, all_tokens, whole = gradients(1 << 20, False)
    for budget, share, recompute in ((1, 0, 0), (1 << 20, 1, 0), (900, 1, 0), (1, 1, 1)):
        parts, tokens, found = gradients(budget, bool(share), bool(recompute))
        assert parts == pytest.approx(wanted, rel=1e-5)
        assert tokens < 0.5 * all_tokens if share else tokens == all_tokens
        for name, gradient in whole.items():
            scale = max(float(gradient.abs().max()), 1e-4)
            assert float((found[name] - gradient).abs().max()) < 2e-5 * scale, f"{name} at {budget}"


@pytest.mark.parametrize(("rank", "steps", "learning_rate"), [(0, 60, 3e-3), (4, 45, 1e-2)])
def test_a_planted_mark_is_learnt(checkpoints, tmp_path, rank, steps, learning_rate):
    config = config_of(
        checkpoints["qwen3"], tmp_path, rank=rank, num_steps=steps, learning_rate=learning_rate
    )
    folder = run_reward_model(replace(config, run=replace(config.run, save_every=0)))
    lines = lines_of(config)
    assert [line["step"] for line in lines] == list(range(steps + 1))
    first, last = lines[0], lines[-1]
    assert (first["eval/pair_accuracy"], first["eval/group_accuracy"]) == (0.0, 0.0)  # every score is 0.5
    assert (last["eval/pair_accuracy"], last["eval/group_accuracy"], last["pair_accuracy"]) == (1.0, 1.0, 1.0)
    assert last["eval/mae"] < 0.5 * first["eval/mae"]
    assert all(last[f"eval/pair_accuracy/{kind}"] == 1.0 for kind in KINDS)
    assert [name for name in lines[3] if name.startswith("eval/")] == []
    assert (first["data/num_groups"], first["eval/num_groups"], first["eval/num_truncated"]) == (11, 6, 0)
    parts = [last["loss/dimension"], 0.5 * last["loss/total"], 0.7 * last["loss/ranking"]]
    assert last["loss"] == pytest.approx(sum(parts), rel=1e-5)
    scorer = RubricScorer(RubricModel.load(folder, CPU, torch.float32))
    good, bad = scorer.score("math", ["What is 7 + 7?"] * 2, ["7 + 7 = 14 .", "7 + 1 = 8 !"])
    assert good.total > bad.total + 0.2


def test_eval_json_and_the_plot(checkpoints, tmp_path, capsys):
    config = config_of(checkpoints["qwen3"], tmp_path)
    run_reward_model(config)
    assert "step 4/4 | " in capsys.readouterr().err
    about = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert (about["step"], about["num_groups"], about["num_traces"]) == (4, 6, 6 * 5)
    assert sum(each["count"] for each in about["calibration"]) == 30
    line = lines_of(config)[-1]
    assert {f"eval/{name}": value for name, value in about["metrics"].items()}.items() <= line.items()
    assert (tmp_path / "run" / "calibration.png").read_bytes()[:4] == b"\x89PNG"
    assert [line["step"] for line in lines_of(config) if "eval/mae" in line] == [0, 2, 4]


def test_without_held_out_groups(checkpoints, tmp_path, terminal):
    config = replace(config_of(checkpoints["qwen3"], tmp_path, num_steps=1), eval_path=None)
    run_reward_model(config)
    assert "step 1 of 1" in terminal.text()
    assert not (tmp_path / "run" / "eval.json").exists()
    assert "eval/mae" not in lines_of(config)[-1]


@pytest.mark.parametrize("rank, layout", [(0, "plain"), (2, "plain"), (2, "of 0.1")])
def test_the_same_bits_twice_and_after_an_interruption(checkpoints, tmp_path, rank, layout):
    straight = config_of(checkpoints["qwen3"], tmp_path / "a", rank=rank, num_steps=5)
    again = replace(
        straight,
        run=replace(straight.run, dir=str(tmp_path / "b")),
        train=replace(straight.train, num_steps=3),
    )
    first = run_reward_model(straight)
    left = run_reward_model(again)
    stopped = (left / "rubric/heads.safetensors").read_bytes()
    if layout != "plain":
        as_before(left)
    again = replace(again, train=straight.train)
    resumed = run_reward_model(again)
    assert stopped != (resumed / "rubric/heads.safetensors").read_bytes()
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    for name in sorted(files - {Path("README.md")}):  # which names the run
        assert (resumed / name).read_bytes() == (first / name).read_bytes(), name
    kept = ("step", "loss", "grad_norm", "pair_accuracy")
    a, b = ([{name: line.get(name) for name in kept} for line in lines_of(c)] for c in (straight, again))
    assert a == b
    assert run_reward_model(again) == resumed  # nothing is left to do


def test_dropout_of_adapters_is_drawn_by_step(checkpoints, tmp_path):
    base = replace(config_of(checkpoints["qwen3"], tmp_path / "a", rank=2), eval_path=None)
    losses = {}
    for name, dropout in (("a", 0.0), ("b", 0.5), ("c", 0.5)):
        config = replace(
            base,
            run=replace(base.run, dir=str(tmp_path / f"run-{name}")),
            lora=replace(base.lora, dropout=dropout),
        )
        torch.manual_seed(ord(name))
        run_reward_model(config)
        losses[name] = [line.get("loss") for line in lines_of(config)]
    assert losses["b"] == losses["c"]
    assert losses["a"][-1] != losses["b"][-1]


def test_bad_input_is_refused_by_name(checkpoints, tmp_path, monkeypatch):
    config = config_of(checkpoints["qwen3"], tmp_path)
    check_reward_model(config)
    cases = [
        ([group(1, task="code")], r"row 1: task: expected reward_model\.task = math, got code"),
        (
            [group(1), replace(group(2), negative_bank=())],
            r"row 2: negative_bank: expected at least one trace",
        ),
        ([replace(group(1), positive_pool=())], r"row 1: positive_pool: expected at least one trace"),
        ([], r"\[data\] path: expected at least one row"),
    ]
    for number, (groups, message) in enumerate(cases):
        path = write(tmp_path / f"bad-{number}.jsonl", groups)
        one = replace(config, run=replace(config.run, dir=str(tmp_path / f"run-{number}")))
        for bad in (replace(one, eval_path=path), replace(one, data=replace(one.data, path=path))):
            with pytest.raises(ValueError, match=message):
                check_reward_model(bad)
        with pytest.raises(ValueError, match=message):
            run_reward_model(bad)
    with pytest.raises(FileNotFoundError):
        check_reward_model(replace(config, eval_path=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(ValueError, match=r"\[reward_model\] max_tokens: expected <= 512, .* got 3072"):
        check_reward_model(replace(config, max_tokens=3072))
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"\[lora\] rank: expected 0 if peft is not installed"):
        check_reward_model(replace(config, lora=LoraConfig(rank=2)))
    check_reward_model(config)
