"""Shared prefixes give the loss and gradients of a batch that repeats them."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastrl.config import ModelConfig, RlConfig, RolloutConfig, TrainConfig
from fastrl.kernels.config import LossConfig
from fastrl.ops import prefix_tree
from fastrl.policy.attention import attention_kwargs
from fastrl.policy.model import Policy, check_layers
from fastrl.policy.packing import pack, shared_microbatches
from fastrl.policy.prefix_attention import PREFIX
from fastrl.runtime.distributed import Ranks
from fastrl.stages.sft import accumulate
from fastrl.training.update import accumulate_gradients, packed_batches, score_rollouts
from fastrl.types import Rollout, TrainSequence

CPU = torch.device("cpu")
FAMILIES = ["qwen3", "llama", "gemma2", "mistral_window", "gpt2"]
PROMPTS, GROUP = 3, 8


def rollouts(seed: int = 0) -> list[Rollout]:
    """Groups of 8; completions of few different tokens, so that some begin alike and two are the same."""
    rng = random.Random(seed)
    out = []
    for prompt in range(PROMPTS):
        prompt_ids = [4, 5, *(rng.randrange(4, 260) for _ in range(11 + 9 * prompt))]
        for place in range(GROUP):
            completion = [rng.randrange(4, 7) for _ in range(1 + rng.randrange(14))]
            if place == 7:
                completion = list(out[-1].completion_ids)
            noise = [rng.random() * 0.2 - 5.6 for _ in completion]
            advantage = rng.random() - 0.5
            out.append(Rollout(prompt_ids, completion, noise, "", "stop", group=prompt, advantage=advantage))
    return out


def config(budget: int, **loss) -> RlConfig:
    return RlConfig(
        rollout=RolloutConfig(max_new_tokens=40),
        train=TrainConfig(tokens_per_microbatch=budget),
        loss=LossConfig(**loss),
    )


def policy_of(path, attention: str, share: bool = True) -> Policy:
    return Policy.load(ModelConfig(path=str(path), attention=attention, share_prefixes=share), CPU)


def slots(todo: list[Rollout]) -> int:
    return prefix_tree([r.prompt_ids + r.completion_ids for r in todo], backend="reference").num_slots


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_equals_unshared(checkpoints, family):
    todo, found = rollouts(), []
    for attention, share, budget in (("sdpa", True, 10**6), ("prefix", False, 200), ("prefix", True, 170)):
        policy = policy_of(checkpoints[family], attention, share)
        generator = torch.Generator().manual_seed(5)
        old = [torch.randn(len(r.completion_ids), generator=generator) * 0.1 - 5.5 for r in todo]
        how = config(budget, kl_coef=0.1, entropy_coef=0.01)
        accumulate_gradients(policy, todo, range(len(todo)), old, old, how, Ranks(), stats := {})
        found.append((stats["loss_sum"], {n: p.grad for n, p in policy.model.named_parameters()}))
    (loss, wanted), *others = found
    largest = max(float(g.abs().max()) for g in wanted.values() if g is not None)
    for other_loss, grads in others:
        torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=1e-6)
        for name, grad in wanted.items():
            if grad is not None:
                torch.testing.assert_close(grads[name], grad, rtol=2e-4, atol=2e-6 * largest, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal(checkpoints, family):
    todo = rollouts()
    wanted = score_rollouts(policy_of(checkpoints[family], "sdpa"), todo, config(10**6))
    for budget in (10**6, 90):
        got = score_rollouts(policy_of(checkpoints[family], "prefix"), todo, config(budget))
        for a, b, rollout in zip(got, wanted, todo, strict=True):
            assert len(a) == len(rollout.completion_ids)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def test_sharing_is_the_default_on_a_cpu(checkpoints):
    policy = Policy.load(ModelConfig(path=str(checkpoints["llama"])), CPU)
    assert policy.attention == PREFIX and policy.share_prefixes
    assert not policy_of(checkpoints["llama"], "sdpa").share_prefixes


def test_sft_shares_a_system_prompt(checkpoints):
    rng = random.Random(1)
    system = [rng.randrange(4, 260) for _ in range(30)]
    batch = []
    for _ in range(9):
        rest = [rng.randrange(4, 260) for _ in range(2 + rng.randrange(12))]
        batch.append(TrainSequence(system + rest, [False] * 31 + [True] * (len(rest) - 1)))
    found = []
    for attention, budget in (("sdpa", 10**6), ("prefix", 10**6), ("prefix", 60)):
        policy = policy_of(checkpoints["llama"], attention)
        loss, entropy = accumulate(policy, batch, budget)
        found.append((loss, entropy, *(p.grad for p in policy.parameters() if p.grad is not None)))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_and_bfloat16(checkpoints):
    todo = rollouts()
    for settings in ({"gradient_checkpointing": True}, {"dtype": "bfloat16"}):
        grads = []
        for attention in ("sdpa", "prefix"):
            how = ModelConfig(path=str(checkpoints["qwen3"]), attention=attention, **settings)
            policy = Policy.load(how, CPU)
            accumulate_gradients(
                policy, todo, range(len(todo)), [None] * 24, [None] * 24, config(10**6), Ranks(), {}
            )
            grads.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
        error = float((grads[0] - grads[1]).norm() / grads[0].norm())
        assert error <= (0.05 if "dtype" in settings else 1e-5), settings


def test_pack_by_hand():
    # 1 2 3 [4 9], 1 2 3 [5], 1 2 [3]: the last token of each is predicted only
    batch = pack(
        [
            TrainSequence([1, 2, 3, 4, 9], [False] * 3 + [True] * 2),
            TrainSequence([1, 2, 3, 5], [False] * 3 + [True]),
            TrainSequence([1, 2, 3], [False] * 2 + [True]),
        ],
        CPU,
        share_prefixes=True,
    )
    assert batch.input_ids.tolist() == [1, 2, 3, 4]
    assert batch.position_ids.tolist() == [0, 1, 2, 3] and batch.position_ids.dtype == torch.int64
    assert batch.rows.tolist() == [2, 3, 2, 1]
    assert batch.ids.tolist() == [4, 9, 5, 3]
    assert batch.row_cu_seqlens.tolist() == [0, 2, 3, 4]
    assert batch.tree.subtree_stop.tolist() == [4, 4, 4, 4]
    with pytest.raises(ValueError, match=r"attention: expected prefix if sequences share tokens"):
        attention_kwargs("fastrl_sdpa", batch)


def test_token_counts(checkpoints):
    """prompt + sum of completions, without their last tokens, where nothing else begins alike."""
    rng = random.Random(0)
    prompt = [rng.randrange(260) for _ in range(20)]
    lengths = [5, 1, 9, 30]
    completions = [[first] + [7] * (length - 1) for first, length in enumerate(lengths)]
    todo = [Rollout(prompt, each, [0.0] * len(each), "", "stop", 0, advantage=1.0) for each in completions]
    ((chosen, batch),) = packed_batches(policy_of(checkpoints["llama"], "prefix"), todo, range(4), 10**6)
    assert sorted(chosen) == [0, 1, 2, 3]
    assert batch.num_tokens == 20 + sum(lengths) - 4
    ((_, apart),) = packed_batches(policy_of(checkpoints["llama"], "prefix", False), todo, range(4), 10**6)
    assert apart.num_tokens == 4 * 20 + sum(lengths) - 4


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), min_size=1, max_size=9)), max_size=30),
    st.integers(1, 30),
)
def test_microbatches_respect_the_budget(drawn, budget):
    tokens = [[10 + group, *rest] for group, rest in drawn]
    groups = [group for group, _ in drawn]
    batches = shared_microbatches(tokens, groups, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(tokens)))
    for batch in batches:
        merged = prefix_tree([tokens[i] for i in batch], backend="reference").num_slots
        assert merged <= budget or len(batch) == 1
    for group in set(groups):
        members = {i for i in range(len(tokens)) if groups[i] == group}
        if prefix_tree([tokens[i] for i in members], backend="reference").num_slots <= budget:
            assert sum(bool(members & set(batch)) for batch in batches) == 1


def test_microbatches_of_groups_by_hand():
    prompts = [[1] * 10, [2] * 10]
    tokens = [[*prompts[i % 2], 5 + i] for i in range(8)]  # 14 tokens a group once merged
    assert shared_microbatches(tokens, [0, 1] * 4, 14) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert shared_microbatches(tokens, [0, 1] * 4, 28) == [[0, 2, 4, 6, 1, 3, 5, 7]]
    assert shared_microbatches(tokens, [0, 1] * 4, 27) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    # too large a group is split
    assert shared_microbatches(tokens, [0, 1] * 4, 12) == [[0, 2], [4, 6], [1, 3], [5, 7]]


def test_layers_that_are_not_attention_are_refused(checkpoints):
    policy = policy_of(checkpoints["qwen3"], "sdpa")
    policy.model.config.layer_types = ["full_attention", "linear_attention"]
    check_layers(policy.model, "fastrl_sdpa")
    with pytest.raises(ValueError, match=r"attention: prefix takes .* got full_attention, linear_att"):
        check_layers(policy.model, PREFIX)


def test_slots_of_a_batch_are_counted(checkpoints):
    todo = rollouts()
    policy = policy_of(checkpoints["llama"], "prefix")
    for budget in (60, 170):
        batches = list(packed_batches(policy, todo, range(len(todo)), budget))
        assert sorted(i for chosen, _ in batches for i in chosen) == list(range(len(todo)))
        for chosen, batch in batches:
            assert batch.num_tokens <= slots([todo[i] for i in chosen]) <= budget
