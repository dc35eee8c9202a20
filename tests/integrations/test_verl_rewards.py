"""verl's reward manager: rollouts arrive one at a time and are graded in batches."""

from __future__ import annotations

import asyncio
import math
import threading
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from jsonl import write_jsonl

from fastrl.config import DataConfig
from fastrl.data.problems import load_problems
from fastrl.integrations.batcher import Batcher
from fastrl.integrations.verl_data import write_parquet


def run(coroutine):
    return asyncio.run(coroutine)


async def ask(batcher, items):
    return await asyncio.gather(*(batcher(item) for item in items))


def test_items_within_the_wait_share_one_call():
    calls = []

    def double(items):
        calls.append((list(items), threading.current_thread() is threading.main_thread()))
        return [2 * item for item in items]

    assert run(ask(Batcher(double, wait_s=0.05), range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert calls == [([0, 1, 2, 3, 4, 5, 6], False)]


def test_calls_have_at_most_the_limit_and_answer_every_item():
    sizes = []

    def answer(items):
        sizes.append(len(items))
        return items

    assert run(ask(Batcher(answer, wait_s=0.01, most=3), range(7))) == list(range(7))
    assert sizes == [3, 3, 1]


def test_a_full_batch_does_not_wait():
    async def within(seconds):
        return await asyncio.wait_for(ask(Batcher(lambda items: items, wait_s=3600, most=2), [1, 2]), seconds)

    assert run(within(30)) == [1, 2]


def test_an_error_is_raised_for_each_item_and_the_next_batch_works():
    def answer(items):
        if 3 in items:
            raise KeyError("three")
        return items

    async def both():
        batcher = Batcher(answer, wait_s=0.01, most=2)
        failed = await asyncio.gather(batcher(3), batcher(4), return_exceptions=True)
        return failed, await asyncio.gather(batcher(5), batcher(6))

    failed, answered = run(both())
    assert [type(each) for each in failed] == [KeyError, KeyError] and answered == [5, 6]


def test_a_wrong_number_of_answers_is_named():
    async def one():
        return await asyncio.gather(Batcher(lambda items: [], wait_s=0)(1), return_exceptions=True)

    (error,) = run(one())
    assert isinstance(error, RuntimeError) and "expected 1, got 0" in str(error)


def test_a_cancelled_item_does_not_disturb_others():
    async def three():
        batcher = Batcher(lambda items: items, wait_s=0.05)
        tasks = [asyncio.ensure_future(batcher(item)) for item in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = run(three())
    assert (first, third) == (0, 2) and isinstance(second, asyncio.CancelledError)


@pytest.mark.parametrize("options", [{"wait_s": -1}, {"most": 0}])
def test_options_of_a_batcher(options):
    with pytest.raises(ValueError, match=r"\[batcher\]"):
        Batcher(lambda items: items, **options)


def test_columns(tmp_path):
    import pyarrow.parquet

    source = tmp_path / "train.jsonl"
    rows = [{"question": "3+4?", "answer": "7"}, {"question": "2*3?", "answer": 6}]
    write_jsonl(source, rows)
    assert write_parquet(DataConfig(path=str(source)), tmp_path / "t.parquet", split="test") == 2
    found = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert found[1] == {
        "data_source": "fastrl",
        "prompt": [{"role": "user", "content": "2*3?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "6"},
        "extra_info": {"index": 1, "split": "test", "question": "2*3?"},
    }
    again = load_problems(DataConfig(path=str(tmp_path / "t.parquet")))
    assert [(p.question, p.solution) for p in again] == [("3+4?", "7"), ("2*3?", "6")]


@pytest.fixture(scope="module")
def rewards():
    reason = "verl, or what its reward loop needs, is not installed"
    pytest.importorskip("verl.experimental.reward_loop.reward_manager", reason=reason, exc_type=ImportError)
    from fastrl.integrations import verl_rewards

    return verl_rewards


def sample(rewards, prompt, completion, ids, solution="7"):
    messages = [{"role": "user", "content": prompt}]
    return rewards.Sample(messages, completion, ids, 4, {"solution": solution, "question": prompt})


def test_compute_score(rewards):
    assert rewards.compute_score("x", "so \\boxed{7}", "7", {}) == {"score": 1.0, "acc": 1.0}
    assert rewards.compute_score("x", "so \\boxed{8}", "7")["score"] == 0.0


def test_weighted_sums_keep_the_order_of_rollouts(rewards):
    seen = {}

    def length(prompts, completions, completion_ids, trainer_state, rollout_ids, solution, **columns):
        seen.update(prompts=prompts, ids=rollout_ids, step=trainer_state.global_step, solution=solution)
        return [None if not ids else float(len(ids)) for ids in completion_ids]

    def right(completions, **columns):
        return [float(text == "yes") for text in completions]

    functions = {"length": rewards.Weighted(length, 0.5), "right": rewards.Weighted(right, 2.0)}
    samples = [
        sample(rewards, "b", "yes", [1, 2]),
        sample(rewards, "a", "no", []),
        sample(rewards, "b", "no", [1, 2, 3], "9"),
    ]
    found = rewards.score(functions, samples)
    assert [each["score"] for each in found] == [3.0, 0.0, 1.5]
    assert math.isnan(found[1]["length"]) and found[1]["right"] == 0.0
    assert [p[0]["content"] for p in seen["prompts"]] == ["a", "b", "b"]  # groups together
    assert seen["step"] == 4 and len(set(seen["ids"])) == 3 and set(seen["solution"]) == {"7", "9"}
    assert [each["score"] for each in rewards.score(functions, samples[::-1])] == [1.5, 0.0, 3.0]
    with pytest.raises(ValueError, match="expected at least one number"):
        rewards.score({"length": functions["length"]}, samples)


def test_building_is_refused_by_name(rewards):
    for functions in ({}, {"anwser": {}}):
        with pytest.raises(ValueError, match=r"\[verl\] reward_kwargs: expected rewards among answer"):
            rewards.build(functions, None, 8)
    with pytest.raises(TypeError, match="answer_wrokers"):
        rewards.build({"answer": {"answer_wrokers": 1}}, None, 8)


def test_the_manager_batches_toward_a_receiver(rewards, checkpoints):
    """Eight rollouts asked for one by one: the receiver's engine sees one batch."""
    omegaconf = pytest.importorskip("omegaconf")
    from transformers import AutoTokenizer
    from verl import DataProto
    from verl.experimental.reward_loop.reward_manager.registry import get_reward_manager_cls

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["qwen3"])
    config = omegaconf.OmegaConf.create(
        {
            "reward": {
                "custom_reward_function": {
                    "path": None,
                    "reward_kwargs": {
                        "answer": {"weight": 2, "answer_workers": 1},
                        "transfer": {"receiver": str(checkpoints["llama"]), "device": "cpu"},
                    },
                }
            },
            "actor_rollout_ref": {"rollout": {"response_length": 12}},
        }
    )
    manager = get_reward_manager_cls("fastrl")(config, tokenizer, None)
    texts = ["\\boxed{7}" if row % 2 else f"so {row}" for row in range(8)]
    batch = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:10]
        padded = torch.tensor([ids + [0] * (12 - len(ids))])
        mask = torch.tensor([[1] * (3 + len(ids)) + [0] * (12 - len(ids))])
        other = {
            "raw_prompt": [[{"role": "user", "content": "3+4?"}]],
            "reward_model": [{"ground_truth": "7"}],
            "extra_info": [{"question": "3+4?"}],
        }
        prompts = torch.ones(1, 3, dtype=torch.long)
        tensors = {"prompts": prompts, "responses": padded, "attention_mask": mask}
        others = {name: objects(values) for name, values in other.items()}
        batch.append(DataProto.from_dict(tensors=tensors, non_tensors=others))
    calls = []
    answer = manager.batcher.answer
    manager.batcher.answer = lambda samples: calls.append(len(samples)) or answer(samples)

    async def all_at_once():
        return await asyncio.gather(*(manager.run_single(each) for each in batch))

    found = asyncio.run(all_at_once())
    assert calls == [8]
    for row, each in enumerate(found):
        extra = each["reward_extra_info"]
        assert extra["answer"] == row % 2 and 0 <= extra["transfer"] <= 1
        assert each["reward_score"] == 2 * extra["answer"] + extra["transfer"] == extra["score"]


def objects(values):
    import numpy as np

    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_a_prompt_that_is_not_kept_is_named(rewards):
    item = SimpleNamespace(
        batch={"responses": torch.tensor([1]), "attention_mask": torch.tensor([1])},
        non_tensor_batch={"reward_model": {"ground_truth": "7"}},
    )

    class Data(list):
        meta_info: ClassVar[dict] = {}

        def __getitem__(self, which):
            return self if isinstance(which, slice) else item

    manager = object.__new__(rewards.FastRewardManager)
    with pytest.raises(ValueError, match=r"\[verl\] raw_prompt: expected messages"):
        manager._sample(Data())
