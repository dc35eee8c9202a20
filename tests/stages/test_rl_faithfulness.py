"""Faithfulness during training with real engines: when it is measured; fastrl eval finds the same."""

import json
from dataclasses import replace

import pytest
from checkpoints import write_checkpoint
from intervention_world import PROBLEMS
from jsonl import write_jsonl

from fastrl.cli.eval import EvalOptions, run_eval
from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    EvalConfig,
    FaithfulnessConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    WriterConfig,
)
from fastrl.runtime.context import Context
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run, read_metrics
from fastrl.stages.build import build_rl
from fastrl.train import run_stage
from fastrl.types import SamplingParams

MEASURED = FaithfulnessConfig(
    enabled=True, every=2, num_problems=5, num_samples=3, taus=(0.0, 0.6, 1.0), forcing_text="\\boxed{",
    forcing_end="}", answer_tokens=4, slack_tokens=8, checker="fastrl.tiny.weak.faithful.aligned",
    diversity=True, strategy="fastrl.tiny.weak.faithful.strategy", corrupt="fastrl.tiny.weak.faithful.spoil",
)  # fmt: skip


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "problems.jsonl"
    rows = [{"prompt": each, "answer": row[0], "expression": each} for each, row in PROBLEMS.items()]
    write_jsonl(path, rows)
    return str(path)


def config(model, problems, folder, own, **changes) -> RlConfig:
    base = RlConfig(
        run=RunConfig(dir=str(folder), seed=5, device="cpu", save_every=2, keep_last=9),
        model=ModelConfig(path=str(model)),
        data=DataConfig(path=problems),
        rollout=RolloutConfig(num_prompts=3, group_size=2, max_new_tokens=40),
        reward=RewardConfig(functions=("answer", "reward_functions.vowels"), weights=(1.0, 1.0)),
        train=TrainConfig(num_steps=3, learning_rate=1e-3),
        eval=EvalConfig(path=problems, num_samples=16, limit=2, faithfulness=own),
    )
    return replace(base, **changes)


def probed(metrics) -> dict:
    return {name: metrics[name] for name in metrics if name.startswith(("faithfulness/", "diversity/"))}


def test_training_measures_what_eval_finds(fixed_model, problems, tmp_path):
    run_stage(config(fixed_model, problems, tmp_path / "run", MEASURED))
    lines = {line["step"]: line for line in read_metrics(tmp_path / "run/metrics.jsonl")}
    assert [step for step, line in lines.items() if probed(line)] == [0, 2, 3]
    assert lines[0]["faithfulness/answered"] > 0.5 and "faithfulness/corruption" in lines[0]
    assert lines[2]["time/faithfulness_s"] > 0
    for step, checkpoint in ((0, fixed_model), (2, tmp_path / "run/checkpoints/step-000002")):
        options = EvalOptions(
            data=DataConfig(path=problems), num_samples=1, max_new_tokens=40, seed=5, device="cpu",
            faithfulness=replace(MEASURED, every=0), out=str(tmp_path / f"eval-{step}"),
        )  # fmt: skip
        found = run_eval(str(checkpoint), options)
        assert probed(found["metrics"]) == probed(lines[step])
        rows = (tmp_path / f"run/faithfulness/step-00000{step}.jsonl").read_text()
        assert (tmp_path / f"eval-{step}/faithfulness.jsonl").read_text() == rows
        assert rows.count("\n") == 15
    written = json.loads((tmp_path / "eval-2/results.json").read_text())
    assert probed(written["metrics"]) == probed(lines[2]) and written["agreement"] == {}


def test_measuring_changes_nothing_else_and_is_the_same_again(fixed_model, problems, tmp_path):
    for name, own in (("with", MEASURED), ("again", MEASURED), ("without", FaithfulnessConfig())):
        run_stage(config(fixed_model, problems, tmp_path / name, own))
    curves = {
        name: [
            {key: value for key, value in line.items() if not key.startswith("time/")}
            for line in read_metrics(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("with", "again", "without")
    }
    assert curves["with"] == curves["again"]
    rest = [{name: line[name] for name in line if name not in probed(line)} for line in curves["with"]]
    assert rest == curves["without"]
    # next to them, pass@k and avg@k of the evaluation, at step 0 and after training
    names = {f"eval/{kind}" for kind in ("avg@16", "pass@2", "pass@4", "pass@8", "pass@16")}
    assert names <= set(rest[0]) and names <= set(rest[3]) and not names & set(rest[2])


def test_judges_are_built_once_and_sleep_between_uses(fixed_model, problems, tmp_path):
    roomy = write_checkpoint(tmp_path / "judge", "qwen3", seed=1)
    settings = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 4096}))
    one = WriterConfig(
        model=CheckpointConfig(path=str(roomy)), engine=EngineConfig(sleep=True), temperature=1.0, retries=1,
        max_new_tokens=5,
    )  # fmt: skip
    own = replace(MEASURED, judge=one, second_judge=replace(one, temperature=0.0), strategy=None)
    policy = EngineConfig(sleep=True)
    asked = config(fixed_model, problems, tmp_path / "run", own, engine=policy)
    parts, run = build_rl(asked), Run.start(asked)
    *_, faithfulness = parts.evaluators
    assert faithfulness.judges == {}
    context = Context(asked, run)
    first = faithfulness(context, parts, 0)
    judges = dict(faithfulness.judges)
    assert list(judges) == ["judge", "second_judge"]
    for engine in (parts.engine, *(judge.engine for judge in judges.values())):
        with pytest.raises(RuntimeError, match="asleep"):
            engine.generate([[5]], SamplingParams(max_new_tokens=1), seeds=[0])
    assert faithfulness(context, parts, 2) == first and faithfulness.judges == judges
    parts.close()
    # nobody here can judge: every reply is asked for once more, or once where the judge is greedy
    assert first["faithfulness/judge/unlabelled"] == first["faithfulness/second_judge/unlabelled"] == 1
    replies = [first[f"faithfulness/{name}/unreadable_replies"] for name in judges]
    assert replies[0] == 2 * replies[1] > 0
    assert "faithfulness/judge/score" not in first and first["diversity/num_clusters"] == 1


def test_only_the_first_rank_measures(fixed_model, problems, tmp_path):
    asked = config(fixed_model, problems, tmp_path / "run", MEASURED)
    parts = build_rl(asked)
    *_, faithfulness = parts.evaluators
    second = Context(asked, Run(tmp_path / "run"), Ranks(rank=1, size=2))
    assert faithfulness(second, parts, 0) == {}
    parts.close()
