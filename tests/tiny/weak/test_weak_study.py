"""The weak study's numbers, worked by hand; its recipes, its order of work. Nothing is trained here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonl import write_jsonl

from bench.study_weak_report import (
    correlations,
    curves_png,
    failed,
    final,
    ranks,
    report_text,
    scatter_png,
    spearman,
    with_interval,
)
from fastrl.config import RlConfig, SftConfig, SubsetConfig
from fastrl.tiny.reproduce import weak
from fastrl.tiny.reproduce.weak import WeakStudy, outcome
from fastrl.tiny.weak.config import WeakConfig
from fastrl.tiny.weak.make import WeakWorld
from fastrl.tiny.world.notation import write_answer
from fastrl.tiny.world.task import Chain

BEFORE = {
    "test": 0.5, "long": 0.25,
    "faithfulness/checker/aligned": 0.75, "faithfulness/checker/correct/aligned": 1.0,
    "faithfulness/forced": 0.5, "faithfulness/corruption": 0.5, "diversity/effective": 2.0,
    "diversity/evenness": 0.5, "diversity/faithful/effective": 1.0,
}  # fmt: skip


def line(step, reward, gold, alarm=0.0):
    return {
        "step": step, "reward": reward, "rewards/answer/mean": gold, "groups/effective": 0.5,
        "alarm/collapse": alarm,
    }  # fmt: skip


def a_run(mix="explicit", seed=0, faithful=0.75, gain=0.25, setting="scarce", **others):
    curves = {"test": {0: 0.5, 4: 0.5 + gain}, "long": {0: 0.25, 4: 0.25}}
    lines = [line(step, 0.5 + step / 8, 0.5) for step in range(1, 5)]
    before = BEFORE | {"faithfulness/checker/aligned": faithful}
    return {"mix": mix, "seed": seed, "before": before, **outcome(setting, lines, curves), **others}


def test_rank_correlations_by_hand():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert spearman([1, 2, 2, 3], [4, 3, 3, 1]) == pytest.approx(-1.0)
    assert spearman([1, 1], [2, 3]) is None


def test_the_interval_resamples_mixes_and_not_seeds():
    pairs = {"a": [(0.0, 0.1), (0.0, 0.2)], "b": [(0.5, 0.3), (0.5, 0.4)], "c": [(1.0, 0.5), (1.0, 0.6)]}
    found = with_interval(pairs)
    # ranks 1.5 1.5 3.5 3.5 5.5 5.5 and 1 ... 6
    assert found["rho"] == pytest.approx(16 / (16 * 17.5) ** 0.5) and found["runs"] == 6
    assert found["low"] > 0.8 and found["high"] <= 1.0
    # a draw of one mix alone, 3 in 27, has no correlation
    assert 850 < found["resampled"] < 930
    assert with_interval({"a": [(0.5, 0.1), (0.5, 0.2)]}) is None


def test_a_runs_outcome_by_hand():
    rewards = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    gold = [0.8, 0.8, 0.8, 0.8, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    lines = [line(t, r, g, float(t >= 5)) for t, (r, g) in enumerate(zip(rewards, gold, strict=True), 1)]
    curves = {"test": {0: 0.5, 5: 0.75, 10: 0.25}, "long": {0: 0.0, 5: 0.25, 10: 0.5}}
    found = outcome("noise", lines, curves)
    # ema: 0, 1/6, 4/9, then a third nearer to 1 a step; no step but the last has 0.99 of the best: tail 1
    assert found["t_sat"] == 3 and found["t_sat_ema"] is None and "test/until" not in found
    assert found["alarm"] == 5 and found["test/final"] == 0.25 and found["test/drop"] == 0.5
    assert found["test/gain"] == -0.25 and found["long/gain"] == 0.5 and found["effective"] == 0.5
    # ema 0.8 0.8 0.8 0.8 0.57 0.38 0.25 0.17 0.11 0.075; below 0.4 from step 6 on, for five steps at step 10
    assert found["gold_collapse"] == 10 and found["lead"] == 5


def test_gains_are_read_where_the_smooth_reward_saturates():
    lines = [line(t, 1.0, 0.5) for t in range(1, 21)]
    found = outcome("scarce", lines, {"test": {0: 0.5, 10: 0.75, 20: 0.875}, "long": {0: 0.5, 20: 0.25}})
    # saturated at step 1: the nearest evaluation is step 0
    assert found["t_sat_ema"] == 1 and (found["test/until"], found["test/after"]) == (0.0, 0.375)
    assert found["long/after"] == -0.25 and found["lead"] is None


def test_a_mix_fails_below_the_margin():
    runs = [a_run("a", gain=0.4), a_run("a", 1, gain=0.2), a_run("b", gain=0.1), a_run("c", gain=0.2)]
    assert final(runs) == {"scarce": {"a": pytest.approx(0.8), "b": 0.6, "c": 0.7}}
    assert failed(runs, 0.15) == [("scarce", "b")] and failed(runs, 0.3) == []


def test_correlations_and_the_report(tmp_path):
    runs = [
        a_run(mix, seed, faithful, gain + seed / 100)
        for mix, faithful, gain in (("a", 0.9, 0.4), ("b", 0.5, 0.2), ("c", 0.1, 0.1))
        for seed in range(2)
    ]
    runs[-1]["before"] = {"test": 0.5, "long": 0.25, "faithfulness/checker/aligned": 0.1}
    found = correlations(runs)["scarce"]
    assert found["faithful -> gain, test"]["rho"] > 0.9 and found["faithful -> gain, test"]["runs"] == 6
    assert found["diversity -> gain, test"] is None and found["faithful -> gain, long"] is None
    text = report_text(runs, [], runs[:2], {"scarce": found})
    assert "faithful -> gain, test" in text and "0.90 (0.90 0.90)" in text and "after SFT" in text
    pytest.importorskip("matplotlib")
    curves_png(runs, tmp_path / "curves.png")
    scatter_png(runs, tmp_path / "scatter.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("curves.png", "scatter.png"))


@pytest.fixture
def study(tmp_path, monkeypatch):
    ran = []

    def run_stage(config):
        ran.append(config)
        folder = Path(config.run.dir)
        if isinstance(config, RlConfig):
            for step in range(2, config.train.num_steps + 1, 2):
                (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
            lines = [{"step": 0}, *(line(step, 0.5, 0.5) for step in range(1, config.train.num_steps + 1))]
            write_jsonl(folder / "metrics.jsonl", lines)
        return folder

    monkeypatch.setattr(weak, "build_weak_world", lambda config, cache: WeakWorld(tmp_path / config.mix))
    monkeypatch.setattr(weak, "run_stage", run_stage)
    monkeypatch.setattr(weak, "load_engine", lambda checkpoint: checkpoint.name)
    monkeypatch.setattr(WeakStudy, "before", lambda self: BEFORE)
    monkeypatch.setattr(
        WeakStudy, "accuracy", lambda self, engine: {"test": int(engine[-1]) / 8, "long": 0.5}
    )
    return WeakStudy("coded", 3, 4, 2, 5, tmp_path / "runs", WeakConfig()), ran


def test_a_setting_is_trained_from_the_mixs_generator_and_kept(study, tmp_path):
    made, ran = study
    found = made.trained("noise", 4)
    subset, rl = ran
    assert isinstance(subset, SubsetConfig) and subset.noise == "most_frequent_wrong"
    assert subset.run.seed == rl.run.seed == 3 and rl.labels.share == 0.7
    assert subset.model.path == rl.model.path == str(tmp_path / "coded" / "generator")
    assert subset.data.path == str(tmp_path / "coded" / "weak-train.jsonl")
    assert rl.data.path == str(tmp_path / "runs" / "coded" / "3" / "subset" / "subset-64.jsonl")
    assert rl.run.save_every == 2 and rl.run.keep_last >= 2 and rl.eval.path is None
    assert found["curves"]["test"] == {"0": 0.5, "2": 0.25, "4": 0.5}
    assert not (Path(rl.run.dir) / "checkpoints").exists()
    assert made.trained("noise", 4) == found and len(ran) == 2


@pytest.mark.parametrize(
    ("setting", "reward"), [("majority", "majority"), ("selfcertainty", "self_certainty")]
)
def test_proxies_are_trained_on_all_problems(study, setting, reward, tmp_path):
    made, ran = study
    made.trained(setting, 4)
    (rl,) = ran
    assert rl.reward.functions == (reward,) and rl.data.path == str(tmp_path / "coded" / "weak-train.jsonl")


def test_a_rescue_begins_with_sft_once_for_all_settings(study, tmp_path):
    made, ran = study
    rescued = replace(made, rescued=True)
    for setting in ("noise", "majority"):
        rescued.trained(setting, 4)
    (sft,) = (stage for stage in ran if isinstance(stage, SftConfig))
    first, second = (stage for stage in ran if isinstance(stage, RlConfig))
    rows = [json.loads(row) for row in (rescued.folder / "sft" / "traces.jsonl").open()]
    assert len(rows) == 1200 and sft.model.path == str(tmp_path / "coded" / "generator")
    assert first.model.path == second.model.path == sft.run.dir
    # about one written step in eight slips, so about half of the traces end right
    assert (
        0.4
        < sum(write_answer(Chain.parse(row["prompt"]).answer) in row["completion"] for row in rows) / 1200
        < 0.8
    )
