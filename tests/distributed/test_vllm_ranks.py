"""Each rank with a real vLLM in its process: the curve of one rank, with the policy sharded or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import SIZES, byte_tokenizer
from rank_processes import CONTEXT, on_ranks
from tiny_rl import VOWELS, tiny_rl, write_additions
from transformers import AutoModelForCausalLM, Qwen3Config

from fastrl.config import (
    AdapterConfig,
    AnswerConfig,
    EngineConfig,
    EvalConfig,
    ModelConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from fastrl.engine.vllm import buckets as vllm_buckets
from fastrl.engine.vllm.adapter import Vllm, unusable
from fastrl.runtime.run import read_metrics
from fastrl.train import run_stage

pytestmark = pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
SEEN = ("reward", "grad_norm", "entropy", "num_tokens")
LIMIT = 20_000
"""Bytes of a bucket: some of the 24 tensors."""


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> dict[str, RlConfig]:
    """whole: every rank has the policy. sharded: it has a part. adapters: of a sharded policy they alone are
    trained, engines sleep, one rank of two has no prompt and the other one measures."""
    base = tmp_path_factory.mktemp("vllm-ranks")
    shape = SIZES | {"head_dim": 32, "max_position_embeddings": 192}  # that vLLM's CPU kernels know
    decoder = AutoModelForCausalLM.from_config(Qwen3Config(**shape, tie_word_embeddings=True))
    for each in (decoder, byte_tokenizer()):
        each.save_pretrained(base / "qwen3")
    model = ModelConfig(path=str(base / "qwen3"))
    whole = tiny_rl(
        base / "qwen3", write_additions(base / "problems.jsonl"), base / "run",
        run=RunConfig(device="cpu", save_every=0, log_completions_every=0),
        engine=EngineConfig(kind="vllm", max_batch_tokens=2048),
        rollout=RolloutConfig(num_prompts=2, group_size=4, max_new_tokens=12),
        reward=VOWELS,
        answer=AnswerConfig(workers=1),
        train=TrainConfig(num_steps=2, learning_rate=1e-3),
    )  # fmt: skip
    sharded = replace(whole, train=replace(whole.train, shard=True))
    adapters = replace(
        sharded,
        model=replace(model, lora=AdapterConfig(rank=2, target_modules=("q_proj", "down_proj"))),
        engine=replace(whole.engine, sleep=True),
        rollout=replace(whole.rollout, num_prompts=1),
        eval=EvalConfig(path=whole.data.path, limit=2, num_samples=1),
        train=replace(sharded.train, learning_rate=3e-2),
    )
    awake = replace(adapters, engine=whole.engine)
    return {"whole": whole, "sharded": sharded, "adapters": adapters, "awake": awake}


def run(ranks, folder: str, configs: dict[str, RlConfig]) -> dict[str, list[int]]:
    """Of each run how many tensors vLLM was given at a time."""
    vllm_buckets.BUCKET_BYTES = LIMIT
    reload, given = Vllm.reload, {}
    try:
        for name, config in configs.items():
            sizes: list[int] = []
            Vllm.reload = lambda self, bucket, sizes=sizes: (sizes.append(len(bucket)), reload(self, bucket))
            run_stage(replace(config, run=replace(config.run, dir=f"{folder}/{name}")))
            given[name] = sizes
    finally:
        Vllm.reload = reload
    return given


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> None:
    """For all ranks, where no other test has started the process that they are forked from."""
    CONTEXT.set_forkserver_preload(["fastrl.train", "peft", "rank_processes", "vllm.entrypoints.llm"])


@pytest.fixture(scope="module")
def two(configs, tmp_path_factory) -> tuple[Path, list[dict[str, list[int]]]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, on_ranks(2, run, folder / "found", str(folder), configs)


@pytest.fixture(scope="module")
def alone(configs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    chosen = {name: configs[name] for name in ("whole", "adapters")}
    on_ranks(1, run, folder / "found", str(folder), chosen)
    return folder


def curve(folder: Path, name: str) -> list[dict]:
    return read_metrics(folder / name / "metrics.jsonl")


def check_equal(one: list[dict], many: list[dict]) -> None:
    assert [line["step"] for line in one] == [line["step"] for line in many] == [0, 1, 2]
    for a, b in zip(one, many, strict=True):
        for name in a.keys() & set(SEEN):
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), (a["step"], name)


@pytest.mark.parametrize("name", ["whole", "sharded", "adapters"])
def test_two_ranks_with_an_engine_each_learn_what_one_learns(alone, two, name):
    one, many = curve(alone, "whole" if name == "sharded" else name), curve(two[0], name)
    assert max(line.get("grad_norm", 0) for line in one) > 0
    check_equal(one, many)
    for line in many[1:]:  # after an update too the engines compute what the policy does
        assert abs(line["sampling/importance_sampling_ratio/mean"] - 1) < 1e-4


def test_sleep_changes_no_curve(two):
    check_equal(curve(two[0], "awake"), curve(two[0], "adapters"))


def test_weights_come_in_buckets_and_of_adapters_what_changed(two):
    """24 tensors, those with an adapter and their stacks 8, k and v among them."""
    for given in two[1]:
        assert sum(given["whole"]) == sum(given["sharded"]) == 2 * 24 and max(given["sharded"]) < 24 / 2
        # an evaluation before the first step and after the last
        assert sum(given["awake"]) == 24 + 3 * 8
        assert sum(given["adapters"]) == 4 * 24  # dropped in between
