"""Stages that only sample, and pipelines, on several ranks: byte for byte the files of one rank."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import SIZES, write_checkpoint
from intervention_world import hard_set_config, intervene_config, problem_rows, write_rows
from rank_processes import on_ranks, placed, stages

from fastrl.check import check_config
from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    ExecutorConfig,
    GroupsConfig,
    RunConfig,
    SamplingConfig,
    SubsetConfig,
    WriterConfig,
)
from fastrl.config.load import from_dict
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import read_metrics
from fastrl.train import run_recipe, run_stage
from fastrl.training.progress import in_chunks

OWN = ("config.yaml", "environment.json")


def left(folder: Path, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """What a stage leaves for others: not what it notes for itself."""
    notes = ("progress", "metrics", "written", "judged", "executed", *without)
    files = [path for path in folder.iterdir() if path.is_file() and path.name not in OWN]
    return {path.name: path.read_bytes() for path in files if not path.name.startswith(notes)}


def subset_config(model: Path, folder: Path) -> SubsetConfig:
    sampling = SamplingConfig(temperature=2.0, top_p=1.0, top_k=0, max_new_tokens=24)
    return SubsetConfig(
        run=RunConfig(dir=str(folder / "subset"), seed=3, device="cpu"),
        model=CheckpointConfig(path=str(model)),
        data=DataConfig(path=write_rows(folder / "problems.jsonl", problem_rows())),
        engine=EngineConfig(max_batch_tokens=4096),
        sampling=sampling, num_samples=8, sizes=(1,), chunk_size=1,
    )  # fmt: skip


def groups_config(folder: Path, **options) -> GroupsConfig:
    rows = []
    for boxes in range(20, 25):
        packed, all_of_it = 4 * boxes, 4 * boxes + 7
        answer = (
            f"The boxes hold {boxes}*4 = <<{boxes}*4={packed}>>{packed} pens.\n"
            f"With the others it is {packed}+7 = <<{packed}+7={all_of_it}>>{all_of_it} pens.\n"
            f"Twice that is {all_of_it}*2 = <<{all_of_it}*2={2 * all_of_it}>>{2 * all_of_it} pens.\n"
            f"#### {2 * all_of_it}"
        )
        rows.append({"question": f"Ann packs {boxes} boxes of 4 pens, 7 more. Twice that?", "answer": answer})
    return GroupsConfig(
        run=RunConfig(dir=str(folder / "groups"), seed=18, device="cpu"),
        data=DataConfig(path=write_rows(folder / "groups.jsonl", rows)),
        dev_share=0.0,
        **options,
    )


def test_ranks_write_the_files_of_one_rank(fixed_model, tmp_path):
    """Seven problems in chunks of two, or of one, on 2 ranks; five in groups that an executor judges."""
    hard = hard_set_config(fixed_model, tmp_path)
    executor = ExecutorConfig(model=CheckpointConfig(path=str(fixed_model)), max_new_tokens=4)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        configs = [
            placed(hard, tmp_path / name / "hard"),
            placed(
                intervene_config(fixed_model, tmp_path, tmp_path / name / "hard/hard.jsonl"),
                tmp_path / name / "intervene",
            ),
            placed(subset_config(fixed_model, tmp_path), tmp_path / name / "subset"),
            placed(groups_config(tmp_path, executor=executor), tmp_path / name / "groups"),
        ]
        on_ranks(1 if name == "one" else 2, stages, tmp_path / f"found-{name}", *configs)
    for stage in ("hard", "intervene", "subset", "groups"):
        assert left(tmp_path / "two" / stage) == left(tmp_path / "one" / stage), stage
        assert left(tmp_path / "one" / stage)
    for stage, file in (("hard", "progress"), ("subset", "progress"), ("groups", "executed")):
        counts = [
            len((tmp_path / "two" / stage / f"{file}{rank}.jsonl").read_text().splitlines())
            for rank in ("", "-1")
        ]
        assert min(counts) > 0 and counts[0] - counts[1] in (0, 1)


def unread(ranks: Ranks, config) -> str:
    with pytest.raises(ValueError, match="min_negatives") as refused:
        run_stage(config, ranks)
    return str(refused.value)


def test_each_text_is_requested_from_a_model_once(tmp_path, monkeypatch):
    """Nothing that it writes can be read, so that all is asked for twice."""
    monkeypatch.setitem(SIZES, "max_position_embeddings", 4096)
    model = CheckpointConfig(path=str(write_checkpoint(tmp_path / "model", "qwen3")))
    writer = WriterConfig(model=model, max_new_tokens=4, retries=1)
    config = groups_config(tmp_path, negatives="written", writer=writer, judge=writer, candidates=4)
    for size in (1, 2):
        on_ranks(size, unread, tmp_path / f"found{size}", placed(config, tmp_path / f"on{size}"))
    assert left(tmp_path / "on2") == left(tmp_path / "on1") != {}
    books = [tmp_path / "on2" / name for name in ("written.jsonl", "written-1.jsonl")]
    keys = Counter(
        (row["key"], row["attempt"])
        for book in books
        for row in map(json.loads, book.read_text().splitlines())
    )
    assert len(keys) == 5 * 4 * 2 and set(keys.values()) == {1}
    (tmp_path / "on2/counts.json").unlink()
    before = [book.read_bytes() for book in books]
    assert "min_negatives" in on_ranks(1, unread, tmp_path / "again", placed(config, tmp_path / "on2"))[0]
    assert [book.read_bytes() for book in books] == before


def chunks(ranks: Ranks, folder: str, items: str, stop: int) -> Any:
    """Doubled letters, in twos; the rank that is asked for a third chunk dies where stop is 2."""
    worked = []

    def work(start: int, chunk: list[str]) -> dict[str, Any]:
        if len(worked) == stop:
            raise KeyboardInterrupt
        worked.append(start)
        return {"from": start, "text": [2 * letter for letter in chunk]}

    try:
        found = in_chunks(Path(folder) / "progress.jsonl", list(items), 2, work, ranks)
    except KeyboardInterrupt:
        ranks.gather([])  # so that the others come to their end, too
        found = None
    return found, worked


def test_chunks_are_dealt_out_and_never_worked_on_again(tmp_path):
    expected = [
        {"from": 2 * k, "text": [2 * letter for letter in "abcdefghijk"[2 * k : 2 * k + 2]]} for k in range(6)
    ]
    assert on_ranks(2, chunks, tmp_path / "f", str(tmp_path), "abcdefghijk", 9) == [
        (expected, [0, 4, 8]), (expected, [2, 6, 10]),
    ]  # fmt: skip
    names = {path.name for path in tmp_path.glob("*.jsonl")}
    assert names == {"progress.jsonl", "progress-1.jsonl"}
    assert on_ranks(1, chunks, tmp_path / "g", str(tmp_path), "abcdefghijk", 0) == [(expected, [])]
    with (tmp_path / "progress-1.jsonl").open("a") as file:
        file.write('{"items": "torn')
    (tmp_path / "progress.jsonl").unlink()
    # what the first rank had done is done again, by three
    assert on_ranks(3, chunks, tmp_path / "h", str(tmp_path), "abcdefghijk", 9) == [
        (expected, [0]), (expected, [4]), (expected, [8]),
    ]  # fmt: skip
    for items in ("abcdefghijX", "abcdefghi"):
        with pytest.raises(AssertionError, match=r"\[run\] dir: .* other items from number"):
            on_ranks(1, chunks, tmp_path / "i", str(tmp_path), items, 9)


def test_ranks_that_die_leave_their_chunks(tmp_path):
    on_ranks(2, chunks, tmp_path / "f", str(tmp_path), "abcdefghijk", 2)
    ((found, worked),) = on_ranks(1, chunks, tmp_path / "g", str(tmp_path), "abcdefghijk", 9)
    assert worked == [8, 10] and [each["from"] for each in found] == [0, 2, 4, 6, 8, 10]


def pipeline(ranks: Ranks, recipe: dict[str, Any]) -> str:
    return str(run_recipe(from_dict(recipe)))


@pytest.mark.long
def test_a_pipeline_runs_on_ranks(fixed_model, checkpoints, tmp_path):
    """A hard set, RL on it, then SFT of what RL left; what is finished is not run again."""
    data = {"path": write_rows(tmp_path / "problems.jsonl", problem_rows())}
    sft_data = {
        "path": write_rows(
            tmp_path / "rows.jsonl", [{"prompt": f"{a}+{a}", "completion": f"{2 * a}"} for a in range(9)]
        )
    }
    recipe = {
        "stage": "pipeline",
        "hard": {
            "stage": "hard_set", "model": {"path": str(fixed_model)}, "data": data, "num_samples": 2,
            "chunk_size": 2, "sampling": {"max_new_tokens": 16, "temperature": 0.0},
        },
        "rl": {
            "stage": "rl", "model": {"path": str(fixed_model)}, "data": {"path": "@hard/hard.jsonl"},
            "rollout": {"num_prompts": 2, "group_size": 2, "max_new_tokens": 6},
            "reward": {"functions": ["reward_functions.vowels"], "weights": [1.0]},
            "train": {"num_steps": 2, "shard": True},
        },
        "sft": {
            "stage": "sft", "model": {"path": "@rl"}, "data": sft_data, "train": {"num_steps": 2},
            "batch_size": 3,
        },
    }  # fmt: skip
    ends = []
    for size in (1, 2):
        own = {**recipe, "run": {"dir": str(tmp_path / f"on{size}"), "seed": 3, "device": "cpu"}}
        found = on_ranks(size, pipeline, tmp_path / f"found{size}", own)
        assert found == [str(tmp_path / f"on{size}/sft/checkpoints/step-000002")] * size
        ends.append(read_metrics(tmp_path / f"on{size}/sft/metrics.jsonl"))
        assert yaml.safe_load((tmp_path / f"on{size}/pipeline.yaml").read_text())["run"]["seed"] == 3
    assert left(tmp_path / "on2/hard") == left(tmp_path / "on1/hard") != {}
    for one, two in zip(*ends, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    before = (tmp_path / "on2/hard/hard.jsonl").stat().st_mtime_ns, len(ends[1])
    assert on_ranks(2, pipeline, tmp_path / "again", own) == found
    lines = read_metrics(tmp_path / "on2/sft/metrics.jsonl")
    assert len(lines) == before[1] and [line["loss"] for line in lines] == [e["loss"] for e in ends[1]]


def test_async_save_is_refused_by_stages_that_only_sample(fixed_model, tmp_path):
    config = hard_set_config(fixed_model, tmp_path)
    with pytest.raises(ValueError, match=r"\[run\] async_save: expected False in a stage of hard_set"):
        check_config(replace(config, run=replace(config.run, async_save=True)))
