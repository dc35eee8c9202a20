"""Requests that follow their tree: the same tokens as without it, exact counters, split segments."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_cases import CPU

from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.tree.following import NextTokens, split
from fastrl.kernels.prefix_tree import prefix_tree
from fastrl.types import Branch, Completion, PrefixTree, SamplingParams

PROMPT = [5, 9, 7]
FAMILIES = ["qwen3", "llama", "gemma2"]
SAMPLINGS = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0.7, top_p=0.05),
    SamplingParams(temperature=1.0, top_k=2),
]


def random_sequences(rng: random.Random) -> list[list[int]]:
    return [[rng.randrange(3) for _ in range(rng.randrange(1, 9))] for _ in range(rng.randrange(1, 7))]


@pytest.mark.parametrize("seed", range(20))
def test_split_segments_are_those_of_a_tree_in_which_sequences_end_there(seed):
    rng = random.Random(seed)
    sequences = random_sequences(rng)
    forest = prefix_tree(sequences)
    last = np.array(sorted({rng.randrange(forest.num_slots) for _ in range(4)}))
    owners = [next(i for i in range(len(sequences)) if at in slots(forest, sequences, i)) for at in last]
    ended = [sequences[i][: forest.depths[at] + 1] for i, at in zip(owners, last, strict=True)]
    expected, found = prefix_tree(sequences + ended), split(forest, last)
    for name in ("tokens", "depths", "starts", "parents", "stops"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert found.ends.tolist() == expected.ends.tolist()[: len(sequences)]


def slots(forest, sequences, i) -> list[int]:
    stop = sum(map(len, sequences[: i + 1]))
    return forest.slots[stop - len(sequences[i]) : stop].tolist()


def test_next_tokens_by_hand():
    # slots: 0 = 5, 1 = 6 below it, 2 = 7 below that, 3 = 8 below 0, 4 = a second root; then another tree
    following = NextTokens([prefix_tree([[5, 6, 7], [5, 8], [9]]), prefix_tree([[5, 6]])])
    found = following.find(np.array([0, 0, 0, 1, 2, 3, 5, 6]), np.array([6, 8, 9, 7, 8, 9, 6, 7]))
    assert found.tolist() == [1, 3, -1, 2, -1, -1, 6, -1]
    assert following.any_after(np.array([2, 5])) and not following.any_after(np.array([2, 3, 4, 6]))


def cut_rollouts(rollouts: list[Completion], num_samples: int, whole: bool) -> PrefixTree:
    """Three cuts of each rollout, and, if `whole`, the rollout as a branch that nobody continues."""
    branches = []
    for i, rollout in enumerate(rollouts):
        ids = rollout.token_ids
        branches += [
            Branch(
                token_ids=ids[:cut],
                num_samples=num_samples,
                max_new_tokens=len(ids) + 4 - cut,
                seed=10 * i + k,
            )
            for k, cut in enumerate((0, len(ids) // 3, len(ids) // 2))
        ]
    if whole:
        branches += [Branch(token_ids=r.token_ids, num_samples=0, max_new_tokens=1, seed=0) for r in rollouts]
    return PrefixTree(prompt_ids=PROMPT, branches=branches)


def expected_agreement(tree: PrefixTree, branch: Branch, completion: Completion) -> int:
    """Return how many tokens of a completion are in the tree; its last one is drawn, never followed."""
    known = {tuple(b.token_ids[:i]) for b in tree.branches for i in range(len(b.token_ids) + 1)}
    path, ids = tuple(branch.token_ids), completion.token_ids
    agreed = 0
    while agreed < len(ids) - 1 and (*path, *ids[: agreed + 1]) in known:
        agreed += 1
    return agreed


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "nucleus", "top_k"])
@pytest.mark.parametrize("name", FAMILIES)
def test_same_tokens_as_from_each_cut_alone(family, name, sampling):
    engine = family(name).engine
    wanted = replace(sampling, max_new_tokens=24)
    rollouts = [engine.generate([PROMPT], wanted, seeds=[seed])[0][0] for seed in range(3)]
    tree = cut_rollouts(rollouts, 2, whole=True)
    before = engine.stats()
    (found,) = engine.continue_prefixes([tree], sampling)
    after = engine.stats()
    agreed = 0
    for branch, completions in zip(tree.branches, found, strict=True):
        if branch.num_samples:
            ((alone,),) = engine.continue_prefixes(
                [PrefixTree(prompt_ids=PROMPT, branches=[branch])], sampling
            )
            for one, other in zip(completions, alone, strict=True):
                assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        agreed += sum(expected_agreement(tree, branch, completion) for completion in completions)
    num_tokens = after.generated_tokens - before.generated_tokens
    assert agreed > 0 and after.agreed_tokens - before.agreed_tokens == agreed
    assert after.decode_tokens - before.decode_tokens == num_tokens - agreed - (
        after.finished - before.finished
    )


def test_greedy_from_the_models_own_rollout_needs_no_decode_step(family):
    engine = family("llama").engine
    sampling = SamplingParams(max_new_tokens=16, temperature=0)
    (rollout,) = engine.generate([PROMPT], sampling, seeds=[0])[0]
    branch = Branch(token_ids=rollout.token_ids[:4], max_new_tokens=len(rollout.token_ids) - 4, seed=3)
    whole = Branch(token_ids=rollout.token_ids, num_samples=0, max_new_tokens=1, seed=0)
    before = engine.stats()
    ((found, _),) = engine.continue_prefixes(
        [PrefixTree(prompt_ids=PROMPT, branches=[branch, whole])], sampling
    )
    after = engine.stats()
    assert found[0].token_ids == rollout.token_ids[4:]
    assert after.decode_tokens == before.decode_tokens
    assert after.agreed_tokens - before.agreed_tokens == len(rollout.token_ids) - 5


def random_tree(rng: random.Random) -> PrefixTree:
    """A three-letter alphabet, so that requests find their tokens in the tree by chance."""
    branches = [
        Branch(
            token_ids=[rng.randrange(4, 7) for _ in range(rng.randrange(9))],
            num_samples=rng.randrange(3), max_new_tokens=rng.randrange(1, 8), seed=rng.randrange(100),
        )
        for _ in range(rng.randrange(1, 8))
    ]  # fmt: skip
    return PrefixTree(prompt_ids=[rng.randrange(4, 7) for _ in range(rng.randrange(1, 4))], branches=branches)


@pytest.mark.parametrize("max_batch_tokens", [60, 4096])
def test_random_trees_in_pools_of_any_size(checkpoints, max_batch_tokens):
    """The model can draw three tokens alone, those of the trees, so that agreement is frequent."""
    engine = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=CPU, max_batch_tokens=max_batch_tokens
    )
    bias = torch.full((engine.decoder.vocab_size,), -100.0)
    bias[4:7] = 0
    head_logits = engine.decoder.head_logits
    engine.decoder.head_logits = lambda hidden: head_logits(hidden) + bias
    sampling = SamplingParams(temperature=0.5)
    rng = random.Random(max_batch_tokens)
    for _ in range(34):
        trees = [random_tree(rng) for _ in range(3)]
        alone = [replace(tree, branches=[branch]) for tree in trees for branch in tree.branches]
        together = engine.continue_prefixes(trees, sampling)
        found = [tokens_of(completions) for branches in together for completions in branches]
        assert found == [tokens_of(branches[0]) for branches in engine.continue_prefixes(alone, sampling)]
    assert engine.pool.used_tokens == 0
    assert engine.stats().agreed_tokens > 50


def tokens_of(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]
