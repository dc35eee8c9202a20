"""Planner training on tiny random checkpoints: executor and reward model, through fastrl train."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from jsonl import write_jsonl
from tiny_rl import tiny_rl

import fastrl.stages.build
from fastrl.cli.main import main
from fastrl.config import (
    BackboneConfig,
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    EvalConfig,
    ExecutorConfig,
    LoraConfig,
    ReceiverEngineConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    UpliftConfig,
)
from fastrl.config.load import to_yaml
from fastrl.engine.tree.kv_pool import BLOCK
from fastrl.methods.tracelift.rubric_input import Rubric
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.runtime.run import read_metrics
from fastrl.tools.plan.hints import smaller
from fastrl.tools.plan.planner import Device, Planner
from fastrl.train import run_stage


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"{a}+{a + 1}", "solution": str(2 * a + 1)} for a in range(6)]
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="module")
def reward_model(checkpoints, tmp_path_factory):
    """With heads that have an opinion."""
    folder = tmp_path_factory.mktemp("reward_model")
    model = RubricModel.start(
        BackboneConfig(path=str(checkpoints["llama"])), Rubric("math", 400), LoraConfig(),
        torch.device("cpu"), seed=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.no_grad():
        model.network.heads.weight.normal_(0, 0.5)
    model.save(folder)
    return folder


def config(checkpoints, problems, folder, **changes) -> RlConfig:
    executor = ExecutorConfig(
        model=CheckpointConfig(path=str(checkpoints["llama"])), max_new_tokens=6, begin="So:", temperature=1.0
    )
    base = tiny_rl(
        checkpoints["qwen3"], problems, folder,
        run=RunConfig(save_every=2, log_completions_every=1),
        data=DataConfig(path=str(problems), prompt_template="Plan {question}"),
        rollout=RolloutConfig(num_prompts=3, group_size=4, max_new_tokens=10),
        # nobody answers anything; the share of a byte in the text stands for a reward that varies
        reward=RewardConfig(functions=("uplift", "reward_functions.vowels"), weights=(1.0, 1.0)),
        uplift=UpliftConfig(executor=executor, form="uplift", repeats=2, baseline_repeats=3),
        train=TrainConfig(num_steps=3, learning_rate=1e-3),
    )  # fmt: skip
    return replace(base, **changes)


def curve(folder) -> list[dict]:
    """Of what the policy and the rewards did: what was asked again after a stop is counted, and no part."""
    lines = read_metrics(folder / "metrics.jsonl")
    apart = ("time/", "engine/executor/", "uplift/cached")
    return [{k: v for k, v in line.items() if not k.startswith(apart)} for line in lines]


def rows_of(folder, step) -> list[dict]:
    text = (folder / f"completions/step-{step:06d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_writes_its_files(checkpoints, problems, reward_model, tmp_path):
    cfg = config(
        checkpoints, problems, tmp_path / "run", eval=EvalConfig(path=str(problems), num_samples=2, limit=4)
    )
    cfg = replace(cfg, uplift=replace(cfg.uplift, form="quality", reward_model=str(reward_model)))
    cfg = replace(cfg, reward=RewardConfig(functions=("uplift", "rubric"), weights=(1.0, 0.0)))
    run_stage(cfg)
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    for line in (lines[0], lines[3]):
        assert line["eval/num_problems"] == 4
        assert {"eval/two_stage_avg@2", "eval/two_stage_avg@2/low", "eval/executor_alone_avg@2",
                "eval/uplift", "eval/leak", "eval/trace_length"} <= set(line)  # fmt: skip
        assert "eval/avg@2" not in line
    assert lines[0]["eval/executor_alone_avg@2"] == lines[3]["eval/executor_alone_avg@2"]
    first, last = lines[1], lines[3]
    assert first["engine/executor/requests"] == 12 * 3 + 3 * 3  # three problems of a step, all new
    assert last["engine/executor/requests"] == 12 * 3  # after two steps every problem has been asked
    assert first["uplift/quality"] == pytest.approx(first["rewards/rubric/mean"], rel=1e-5)
    assert first["rewards/uplift/mean"] == pytest.approx(
        (first["uplift/e2e"] + first["uplift/quality"]) / 2, rel=1e-5
    )
    assert first["grad_norm"] > 0 and 0 < first["uplift/quality"] < 1
    row = rows_of(tmp_path / "run", 1)[0]
    assert row["prompt"].startswith("<user>Plan ") and row["trace"] == row["completion"].strip()
    assert row["executor_answer"].startswith("So:") and row["s_base"] in (0, 1 / 3, 2 / 3, 1)
    assert row["quality"] == pytest.approx(row["rewards"]["rubric"], rel=1e-4)


def test_a_resumed_run_equals_an_uninterrupted_one(checkpoints, problems, tmp_path):
    whole = config(
        checkpoints, problems, tmp_path / "whole", train=TrainConfig(num_steps=4, learning_rate=1e-3)
    )
    run_stage(whole)
    for steps in (2, 4):
        run_stage(
            replace(
                whole, run=replace(whole.run, dir=str(tmp_path / "stopped")),
                train=replace(whole.train, num_steps=steps),
            )
        )  # fmt: skip
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    for step in (3, 4):
        assert rows_of(tmp_path / "stopped", step) == rows_of(tmp_path / "whole", step)
    asked = [
        [line["engine/executor/requests"] for line in read_metrics(tmp_path / name / "metrics.jsonl")[1:]]
        for name in ("whole", "stopped")
    ]
    # six problems, three a step: the whole run asks for baselines in two steps, the other one once more each
    assert asked == [[45, 45, 36, 36], [45, 45, 45, 45]]


def test_sleeping_engines_change_nothing(checkpoints, problems, tmp_path):
    plain = config(
        checkpoints, problems, tmp_path / "plain", eval=EvalConfig(path=str(problems), num_samples=1)
    )
    asleep = replace(
        plain, run=replace(plain.run, dir=str(tmp_path / "asleep")), engine=EngineConfig(sleep=True)
    )
    for each in (plain, asleep):
        run_stage(each)
    assert curve(tmp_path / "plain") == curve(tmp_path / "asleep")


def test_an_executor_of_its_own_device_works_while_the_policy_samples(
    checkpoints, problems, tmp_path, monkeypatch
):
    build, curves = fastrl.stages.build.build_rl, []
    for overlap in (False, True):

        def built(config, checkpoint=None, overlap=overlap):
            parts = build(config, checkpoint)
            assert not parts.overlap and list(parts.frozen_engines) == ["executor"]
            parts.overlap = overlap
            return parts

        monkeypatch.setattr("fastrl.stages.rl.build_rl", built)
        run_stage(config(checkpoints, problems, tmp_path / str(overlap)))
        curves.append(curve(tmp_path / str(overlap)))
    for plain, overlapped in zip(*curves, strict=True):
        for name in plain.keys() & {"reward", "uplift/e2e", "uplift/unfinished", "num_tokens"}:
            assert plain[name] == pytest.approx(overlapped[name], rel=1e-6), name


def test_the_plan_knows_the_executors_own_engine(checkpoints, problems, tmp_path):
    cfg = config(checkpoints, problems, tmp_path / "run")
    own = ReceiverEngineConfig(kind="torch", max_batch_tokens=1 << 14)
    executor = replace(cfg.uplift.executor, engine=own)
    cfg = replace(cfg, uplift=replace(cfg.uplift, executor=executor))
    items = {item.name: item for item in Planner(cfg, Device.gpu(1)).items()}
    tokens = (1 << 14) // BLOCK * BLOCK + BLOCK
    assert items["executor KV cache"].num_bytes == tokens * 2 * 2 * 2 * 8 * 2  # K and V, layers, heads, size
    options = dict(smaller(Planner(cfg, Device.gpu(1))))
    assert options["uplift.executor.engine.sleep"] is True
    assert options["uplift.executor.engine.max_batch_tokens"] == 1 << 13


def test_code_is_run(checkpoints, problems, tmp_path):
    path = tmp_path / "code.jsonl"
    rows = [
        {"prompt": f"Print {n}.", "solution": "-", "tests": [{"stdin": "", "stdout": str(n)}]}
        for n in range(3)
    ]
    write_jsonl(path, rows)
    cfg = config(checkpoints, path, tmp_path / "run", train=TrainConfig(num_steps=1))
    executor = replace(
        cfg.uplift.executor, task="code", begin="print(1) #", program=replace(
            cfg.uplift.executor.program, run_unsandboxed_code=True
        )
    )  # fmt: skip
    run_stage(replace(cfg, uplift=replace(cfg.uplift, executor=executor, form="execution")))
    (line,) = [line for line in curve(tmp_path / "run") if line["step"] == 1]
    # a comment of six random bytes: where it holds no newline, the program of row 1 is right
    assert 0 < line["uplift/e2e"] <= 1 / 3 + 1e-9
    assert line["uplift/passed"] + line["uplift/wrong_answer"] > 0.5
    assert {row["executor_verdict"] for row in rows_of(tmp_path / "run", 1)} >= {"passed", "wrong_answer"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": CheckpointConfig()}, "[uplift] executor.model.path: expected a model folder, since"),
        ({"form": "product"}, "[uplift] reward_model: expected the folder of one, since form product"),
        ({"form": "sum", "reward_model": "none"}, "[rubric_model] folder: expected one with rubric.json"),
        ({"max_new_tokens": 490}, "[uplift.executor.model] path: expected a model that holds"),
        ({"task": "code"}, "[uplift.executor.model] task: row 1: [tests] columns: expected tests"),
    ],
)
def test_what_cannot_run_is_refused_before_a_model_is_loaded(
    checkpoints, problems, tmp_path, capsys, change, message
):
    cfg = config(checkpoints, problems, tmp_path / "run")
    own = {name: change[name] for name in ("max_new_tokens", "task", "model") if name in change}
    rest = {name: value for name, value in change.items() if name not in own}
    executor = replace(cfg.uplift.executor, **own)
    uplift = replace(cfg.uplift, executor=executor, **{} if own else rest)
    (tmp_path / "recipe.yaml").write_text(to_yaml(replace(cfg, uplift=uplift)))
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_reward_model_of_another_task_is_refused(checkpoints, problems, reward_model, tmp_path, capsys):
    cfg = config(checkpoints, problems, tmp_path / "run")
    about = json.loads((reward_model / "rubric.json").read_text())
    assert about["task"] == "math"
    rows = [{"prompt": "q", "solution": "-", "tests": [{"stdin": "", "stdout": "1"}]}]
    problems.write_text(json.dumps(rows[0]) + "\n")
    executor = replace(cfg.uplift.executor, task="code")
    uplift = replace(cfg.uplift, form="sum", reward_model=str(reward_model), executor=executor)
    (tmp_path / "recipe.yaml").write_text(to_yaml(replace(cfg, uplift=uplift)))
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "[uplift] reward_model: expected one of task code, got" in capsys.readouterr().err


def test_dry_run_and_plan_show_executor_and_reward_model(
    checkpoints, problems, reward_model, tmp_path, capsys
):
    cfg = config(checkpoints, problems, tmp_path / "run")
    cfg = replace(cfg, uplift=replace(cfg.uplift, form="product", reward_model=str(reward_model)))
    (tmp_path / "recipe.yaml").write_text(to_yaml(cfg))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out)["uplift"]["form"] == "product"
    for line in (
        "# executor_runs_with_a_trace_per_step: 36",
        "# executor_runs_without_per_step_at_most: 9",
        "#   <user>Plan 0+1<assistant>",
        "# the executor reads:",
    ):
        assert line in out.splitlines()
    assert out.rstrip().endswith("Reply with the result alone.<assistant>So:")
    assert main(["plan", str(tmp_path / "recipe.yaml")]) == 0
    out = capsys.readouterr().out
    for name in ("executor weights", "executor KV cache", "reward model weights"):
        assert name in out


def test_eval_of_a_planner(checkpoints, problems, tmp_path, capsys):
    arguments = [
        "eval", str(checkpoints["qwen3"]), "--data.path", str(problems), "--data.prompt_template",
        "Plan {question}", "--num_samples", "2", "--max_new_tokens", "6", "--out", str(tmp_path / "out"),
        "--executor.model.path", str(checkpoints["llama"]), "--executor.max_new_tokens", "5",
        "--device", "cpu",
    ]  # fmt: skip
    assert main(arguments) == 0
    out, shown = capsys.readouterr()
    assert "completion 36/36 | " in shown and "executor " in shown  # 6 problems: traces, with them, without
    assert "two_stage_avg@2" in out and "executor_alone_avg@2" in out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["metrics"]["num_problems"] == 6 and len(results["num_correct_alone"]) == 6
    assert len((tmp_path / "out/completions.jsonl").read_text().splitlines()) == 12
    with pytest.raises(SystemExit):
        main([*arguments, "--receiver", "x"])
    assert "[eval] receiver: expected none, since" in capsys.readouterr().err
