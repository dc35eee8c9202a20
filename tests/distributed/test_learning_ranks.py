"""Stages that learn from examples, on several ranks: the curve of one rank, also after a resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from intervention_world import PROBLEMS
from jsonl import write_jsonl
from rank_processes import on_ranks, placed, runs_of, stages
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fastrl.check import check_config
from fastrl.config import (
    AdapterConfig,
    BackboneConfig,
    CptConfig,
    DataConfig,
    LoraConfig,
    ModelConfig,
    RewardModelConfig,
    RubricLossConfig,
    RunConfig,
    SftConfig,
    TextConfig,
    TrainConfig,
)
from fastrl.methods.tracelift.rubric import RubricScorer
from fastrl.methods.tracelift.rubric_dimensions import DIMENSIONS
from fastrl.methods.tracelift.rubric_model import RubricModel
from fastrl.methods.tracelift.trace_groups import Group, Trace, to_row
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.errors import Interrupted
from fastrl.runtime.run import Run, read_metrics
from fastrl.train import run_stage

WIDE = ("sft-sharded", "sft-summed", "cpt", "reward_model", "reward_model-adapters")
"""What four ranks run, too."""
TRAIN = TrainConfig(
    num_steps=10, learning_rate=1e-3, lr_scheduler_type="constant", tokens_per_microbatch=60
)  # fmt: skip
GOOD = dict.fromkeys(DIMENSIONS["math"], 9.0)


def trace(text: str, kind: str | None = None) -> Trace:
    scores = GOOD if kind is None else {**GOOD, "step_coherence": 1.0}
    return Trace(text=text, scores=scores, total=1.0 if kind is None else 0.2, negative_kind=kind)


def group(k: int) -> Group:
    """Flawed traces hold a mark."""
    return Group(
        problem_id=str(k), task="math", problem=f"What is {k} + {k}?", reference_solution="",
        answer=str(2 * k), positive_pool=(trace(f"{k} + {k} = {2 * k} ."),),
        negative_bank=tuple(trace(f"{k} + {n} = {k + n} !", "slip") for n in range(3)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def configs(checkpoints, tmp_path_factory) -> dict[str, SftConfig | CptConfig | RewardModelConfig]:
    """Each with steps that leave a rank of four without work, or with less; sft: tokens of other weights, and
    an entropy that is watched; cpt: whole documents and cut ones, held-out text."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {"prompt": f"{a}+{a}", "prefix": "so " * (a % 3), "completion": f"{a}+{a}={2 * a}" + "." * a}
        for a in range(7)
    ]
    texts = [{"text": "the cat sat on the mat " * (k + 1)} for k in range(9)]
    data = DataConfig(path=write_jsonl(folder / "rows.jsonl", rows))
    text = TextConfig(path=write_jsonl(folder / "texts.jsonl", texts))
    held_out = write_jsonl(folder / "held_out.jsonl", [{"text": "the bat sat"}, {"text": "on the rat"}])
    judged = DataConfig(path=write_jsonl(folder / "groups.jsonl", [to_row(group(k)) for k in range(7)]))
    dev = write_jsonl(folder / "dev.jsonl", [to_row(group(k)) for k in range(20, 23)])
    model, run = ModelConfig(path=str(checkpoints["llama"])), RunConfig(save_every=4, seed=3)
    sharded, backbone = replace(TRAIN, shard=True), BackboneConfig(path=model.path)
    sft = SftConfig(
        run=run, model=model, data=data, train=TRAIN, batch_size=3, prefix_weight=0.5, max_entropy_rise=9.0
    )
    cpt = CptConfig(
        run=run, model=model, data=text, train=TRAIN, seq_len=32, batch_size=2, held_out=held_out,
        held_out_every=4,
    )  # fmt: skip
    adapted = replace(model, lora=AdapterConfig(rank=3, alpha=6.0))
    return {
        "sft": sft,
        "sft-sharded": replace(sft, train=sharded, run=replace(run, async_save=True)),
        "sft-summed": replace(sft, train=replace(sharded, shard_gradients=True)),
        "sft-adapters": replace(sft, model=adapted, train=sharded),
        "cpt": cpt,
        "cpt-sharded": replace(cpt, train=sharded, model=replace(model, path=str(checkpoints["qwen3"]))),
        "reward_model": RewardModelConfig(
            run=run, model=backbone, data=judged, eval_path=dev, train=TRAIN, groups_per_step=3,
            max_tokens=400, loss=RubricLossConfig(num_negatives=2), lora=LoraConfig(rank=0),
        ),
        "reward_model-sharded": RewardModelConfig(
            run=replace(run, async_save=True), model=replace(backbone, path=str(checkpoints["qwen3"])),
            data=judged, eval_path=dev, train=sharded, groups_per_step=3, max_tokens=400,
            loss=RubricLossConfig(num_negatives=2), lora=LoraConfig(rank=0),
        ),
        "reward_model-adapters": RewardModelConfig(
            run=run, model=backbone, data=judged, eval_path=dev, train=sharded, groups_per_step=5,
            max_tokens=400, loss=RubricLossConfig(num_negatives=2), lora=LoraConfig(rank=2, dropout=0.0),
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(configs, tmp_path_factory) -> dict[int, Path]:
    """Number of ranks -> where their runs are."""
    return runs_of(configs, (1, 2), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def runs_of_four(configs, tmp_path_factory) -> dict[int, Path]:
    """Return the folder of the four-rank runs of WIDE, by number of ranks."""
    wide = {name: configs[name] for name in WIDE}
    return runs_of(wide, (4,), tmp_path_factory.mktemp("runs_of_four"))


def check_equal(one: list[dict], many: list[dict]) -> None:
    assert [line["step"] for line in one] == [line["step"] for line in many]
    for a, b in zip(one, many, strict=True):
        assert {name for name in a if "time/" not in name} == {name for name in b if "time/" not in name}
        assert b.get("loss", 0.0) == pytest.approx(a.get("loss", 0.0), abs=1e-6)
        for name in a:
            if "time/" not in name:
                assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), (a["step"], name)


NAMES = (
    "sft", "sft-sharded", "sft-summed", "sft-adapters", "cpt", "cpt-sharded", "reward_model",
    "reward_model-sharded", "reward_model-adapters",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_have_the_curve_of_one(runs, name):
    check_runs(runs[1] / name, runs[2] / name)


@pytest.mark.long
@pytest.mark.parametrize("name", WIDE)
def test_four_ranks_have_the_curve_of_one(runs, runs_of_four, name):
    check_runs(runs[1] / name, runs_of_four[4] / name)


def check_runs(one_folder: Path, many_folder: Path) -> None:
    one, many = (read_metrics(folder / "metrics.jsonl") for folder in (one_folder, many_folder))
    losses = [line["loss"] for line in one if "loss" in line]
    assert len(losses) == 10 and losses[-1] < losses[0]
    check_equal(one, many)
    assert sorted(p.name for p in (many_folder / "checkpoints").iterdir()) == [
        "step-000008", "step-000010",
    ]  # fmt: skip


def test_what_ranks_leave_is_an_ordinary_folder(runs):
    for name in ("sft-sharded", "sft-adapters", "cpt-sharded"):
        ends = [runs[n] / name / "checkpoints/step-000010" for n in (1, 2)]
        one, two = (AutoModelForCausalLM.from_pretrained(end).state_dict() for end in ends)
        for key, weight in one.items():
            torch.testing.assert_close(two[key], weight, rtol=0, atol=5e-5)
    scores = []
    for size in (1, 2):
        folder = runs[size] / "reward_model/checkpoints/step-000010"
        scorer = RubricScorer(RubricModel.load(folder, torch.device("cpu"), torch.float32))
        scores.append(scorer.score("math", ["What is 7 + 7?"] * 2, ["7 + 7 = 14 .", "7 + 1 = 8 !"]))
        assert (runs[size] / "reward_model/calibration.png").read_bytes()[:4] == b"\x89PNG"
    for alone, shared in zip(*scores, strict=True):
        assert shared.total == pytest.approx(alone.total, abs=1e-5)
    judged = [json.loads((runs[n] / "reward_model/eval.json").read_text()) for n in (1, 2)]
    assert judged[0]["num_traces"] == judged[1]["num_traces"] == 12


@pytest.mark.parametrize("name", ["reward_model-sharded", "reward_model-adapters"])
def test_a_sharded_reward_model_is_saved_like_an_unsharded_one(configs, runs, tmp_path, name):
    """Next to a run of one rank that writes with save_pretrained."""
    plain = placed(configs[name], tmp_path / "plain")
    run_stage(replace(plain, run=replace(plain.run, async_save=False)))
    mine = tmp_path / "plain/checkpoints/step-000010"
    for size in (1, 2):
        theirs = runs[size] / name / "checkpoints/step-000010"
        files = sorted(str(path.relative_to(mine)) for path in mine.rglob("*"))
        assert files == sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*"))
        for file in files:
            if file.endswith(".safetensors"):
                want, got = load_file(mine / file), load_file(theirs / file)
                assert want.keys() == got.keys(), file
                for key in want:
                    torch.testing.assert_close(got[key], want[key], rtol=0, atol=5e-5)
            elif file.endswith(".json") and not file.endswith("state.json"):
                assert (mine / file).read_text() == (theirs / file).read_text(), file


@pytest.mark.parametrize(
    "name",
    [
        "sft-sharded",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("cpt", "reward_model-adapters")),
    ],
)
def test_a_checkpoint_of_four_ranks_resumes_on_two_and_one(configs, runs, tmp_path, name):
    begun = replace(configs[name], train=replace(configs[name].train, num_steps=6))
    on_ranks(4, stages, tmp_path / "found4", placed(begun, tmp_path / "four"))
    whole = read_metrics(runs[1] / name / "metrics.jsonl")
    for size in (2, 1):
        folder = tmp_path / f"on{size}"
        shutil.copytree(tmp_path / "four", folder)
        on_ranks(size, stages, tmp_path / f"found{size}", placed(configs[name], folder))
        lines = read_metrics(folder / "metrics.jsonl")
        # at the sixth step it had ended once: cpt measured its held-out text then
        assert [line["step"] for line in lines] == [line["step"] for line in whole]
        check_equal(whole[7:], lines[7:])


def test_more_entropy_than_allowed_ends_it_on_all_ranks(configs, fixed_model, tmp_path):
    """A model that was sure learns the contrary."""
    rows = [{"prompt": question, "completion": row[1][::-1]} for question, row in PROBLEMS.items()]
    config = replace(
        configs["sft"],
        model=ModelConfig(path=str(fixed_model)),
        data=DataConfig(path=write_jsonl(tmp_path / "rows.jsonl", rows)),
        train=replace(TRAIN, num_steps=60),
        max_entropy_rise=0.2,
    )
    for size in (1, 2):
        on_ranks(size, stages, tmp_path / f"found{size}", placed(config, tmp_path / f"on{size}"))
    ends = [max((tmp_path / f"on{n}/checkpoints").iterdir()).name for n in (1, 2)]
    assert ends[0] == ends[1] and "step-000005" <= ends[0] < "step-000060"


def told_to_leave(ranks: Ranks, config) -> str:
    """SIGTERM to the second rank alone, in the second step."""
    log = Run.log

    def logged(self, step, metrics):
        if step == 2 and ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return log(self, step, metrics)

    Run.log = logged
    try:
        run_stage(config, ranks)
    except Interrupted as left:
        return f"left with {left.code}"
    return "went on"


def test_a_signal_to_one_rank_stops_all_ranks(configs, runs, tmp_path):
    config = placed(configs["sft-sharded"], tmp_path / "run")
    found = on_ranks(2, told_to_leave, tmp_path / "found", config)
    assert found == ["left with 143"] * 2
    assert max((tmp_path / "run/checkpoints").iterdir()).name == "step-000002"
    on_ranks(2, stages, tmp_path / "again", config)
    check_equal(
        read_metrics(runs[1] / "sft-sharded/metrics.jsonl"), read_metrics(tmp_path / "run/metrics.jsonl")
    )


def test_unsupported_settings_are_refused(configs):
    with pytest.raises(ValueError, match=r"\[run\] keep_best: expected '' in a stage of sft"):
        check_config(replace(configs["sft"], run=RunConfig(keep_best="base/nll")))
