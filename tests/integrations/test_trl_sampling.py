"""Dynamic sampling in TRL's generation batches: by hand, and in a run."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from fastrl.integrations.trl_sampling import draw, groups_with_signal, merge, padded, regroup, rows_of, take

PAD = 9


def batch(prompts: list[list[int]], completions: list[list[int]], advantages: list[float]) -> dict:
    """As TRL makes it: prompts padded on the left, completions on the right."""
    wide, long = max(map(len, prompts)), max(map(len, completions))
    return {
        "prompt_ids": torch.tensor([[PAD] * (wide - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([c + [PAD] * (long - len(c)) for c in completions]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (long - len(c)) for c in completions]),
        "tool_mask": torch.tensor([[0] + [1] * (long - 1) for _ in completions]),
        "importance_sampling_ratio": torch.tensor([[float(len(c))] for c in completions]),
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }


def test_groups_and_their_rows():
    given = {"advantages": torch.tensor([0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0, 0.0, 1.0])}
    signal = groups_with_signal(given, 3)
    assert signal.tolist() == [False, True, True]
    assert rows_of(signal, 3).tolist() == [3, 4, 5, 6, 7, 8]
    assert rows_of(~signal, 3).tolist() == [0, 1, 2]
    assert rows_of(torch.tensor([False, False]), 3).tolist() == []


def test_padding():
    values = torch.tensor([[1, 2]])
    assert padded(values, 4, 7, left=True).tolist() == [[7, 7, 1, 2]]
    assert padded(values, 3, 7, left=False).tolist() == [[1, 2, 7]]
    assert padded(values, 2, 7, left=False).tolist() == [[1, 2]]


def test_merge_pads_each_side_as_trl_does():
    one = batch([[1], [1]], [[5, 6, 7], [5]], [0.5, -0.5])
    other = batch([[2, 3, 4], [2, 3, 4]], [[8], [8, 5]], [1.0, -1.0])
    nothing = take(other, torch.tensor([], dtype=torch.int64))
    merged = merge([one, nothing, other], PAD)
    assert merged["prompt_ids"].tolist() == [[PAD, PAD, 1], [PAD, PAD, 1], [2, 3, 4], [2, 3, 4]]
    assert merged["prompt_mask"].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1], [1, 1, 1]]
    assert merged["completion_ids"].tolist() == [[5, 6, 7], [5, PAD, PAD], [8, PAD, PAD], [8, 5, PAD]]
    assert merged["completion_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert merged["tool_mask"].tolist() == [[0, 1, 1], [0, 1, 1], [0, 1, 1], [0, 1, 1]]
    assert merged["importance_sampling_ratio"].tolist() == [[3.0], [1.0], [1.0], [2.0]]
    assert merged["advantages"].tolist() == [0.5, -0.5, 1.0, -1.0]


def test_regroup():
    """The padded prompt [pad, 1] is [1]: one group."""
    first = batch([[1], [2], [3, 4]], [[5], [6], [7]], [1.0, 2.0, 3.0])
    second = batch([[2], [1], [3, 4]], [[8, 8], [5, 5], [7, 7]], [4.0, 5.0, 6.0])
    batches = regroup([first, second], PAD)
    assert [each["advantages"].tolist() for each in batches] == [[1.0, 5.0, 2.0], [4.0, 3.0, 6.0]]
    assert batches[0]["completion_ids"].tolist() == [[5, PAD], [5, 5], [6, PAD]]
    assert batches[1]["prompt_ids"].tolist() == [[PAD, 2], [3, 4], [3, 4]]
    assert batches[1]["num_items_in_batch"].dim() == 0


def test_draw():
    assert draw(5, 5, 0, "refill", 3) == draw(5, 5, 0, "refill", 3) != draw(5, 5, 0, "refill", 4)
    assert sorted(draw(5, 5, 0, "refill", 3)) == [0, 1, 2, 3, 4]
    assert len(draw(2, 7, 1)) == 7 and set(draw(2, 7, 1)) == {0, 1}


@pytest.fixture(scope="module")
def world():
    pytest.importorskip("trl", reason="trl is not installed")
    import trl_runs

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield trl_runs
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    return world.write_model(tmp_path_factory.mktemp("model"))


class TestInARun:
    def run(self, world, model, folder, reward, max_refills, **options):
        calls = []

        def counted(completion_ids, number, **kwargs):
            calls.append(list(number))
            return reward(completion_ids, number)

        trainer = world.Fast(
            str(model), counted, world.arguments(folder, num_iterations=1, **options), world.rows(),
            processing_class=world.AutoTokenizer.from_pretrained(model), max_refills=max_refills,
        )  # fmt: skip
        trainer.train()
        return trainer, calls

    def test_equal_groups_leave_and_others_come(self, world, model, tmp_path):
        trainer, calls = self.run(world, model, tmp_path, world.by_tokens, 8, max_steps=2)
        for step in trainer.steps:
            prompts = Counter(step.rows)
            assert world.PROMPTS[0] not in prompts and sum(prompts.values()) == 16
            assert step.metrics[0]["dynamic_sampling/refills"] >= 1
        assert len(calls) == 2 + sum(step.metrics[0]["dynamic_sampling/refills"] for step in trainer.steps)
        assert all(len(number) % 4 == 0 and len(number) < 16 for number in calls[1:2])
        metrics = trainer.steps[0].metrics[0]
        groups = sum(len(number) for number in calls[: 1 + int(metrics["dynamic_sampling/refills"])]) / 4
        assert metrics["dynamic_sampling/signal"] == pytest.approx(4 / groups)

    def test_drawing_ends_and_equal_groups_fill_up(self, world, model, tmp_path):
        def one_prompt_teaches(completion_ids, number):
            return [float(i % 2) if n == 3 else 1.0 for i, n in enumerate(number)]

        trainer, calls = self.run(world, model, tmp_path, one_prompt_teaches, 1, max_steps=1)
        assert len(calls) == 2 and len(calls[1]) == 12
        prompts = Counter(trainer.steps[0].rows)
        assert sum(prompts.values()) == 16 and prompts[world.PROMPTS[3]] in (4, 8)
        assert any(value.any() for value in trainer.steps[0].gradients.values())

    def test_a_full_batch_is_unchanged(self, world, model, tmp_path):
        def all_teach(completion_ids, number):
            return [float(i % 2) for i in range(len(number))]

        trainer, calls = self.run(world, model, tmp_path, all_teach, 5, max_steps=1)
        assert len(calls) == 1 and trainer.steps[0].metrics[0]["dynamic_sampling/refills"] == 0
        assert set(Counter(trainer.steps[0].rows).values()) == {4}

    def test_the_denominator_counts_what_is_trained(self, world, model, tmp_path):
        trainer, _ = self.run(world, model, tmp_path, world.by_tokens, 8, max_steps=1)
        batches = trainer._buffered_inputs
        tokens = sum(int(each["completion_mask"].sum()) for each in batches)
        assert {int(each["num_items_in_batch"]) for each in batches} == {tokens}
