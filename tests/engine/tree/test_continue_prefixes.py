import random

import pytest
import torch
from engine_cases import CPU, ragged_trees

from fastrl.engine.tree.engine import TorchEngine
from fastrl.types import Branch, PrefixTree, SamplingParams

FAMILIES = ["qwen3", "llama", "gemma2", "mistral_window", "gpt2"]


def one_by_one(engine, tree, branch, sampling):
    """Plain generation from the whole prefix."""
    own = SamplingParams(
        max_new_tokens=branch.max_new_tokens, temperature=sampling.temperature, top_p=sampling.top_p
    )
    prefix = [*tree.prompt_ids, *branch.token_ids]
    return engine.generate([prefix], own, seeds=[branch.seed], n=branch.num_samples)[0]


@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 0.0) for name in FAMILIES), ("qwen3", 1.0), ("llama", 0.7)]
)
def test_equals_generation_from_every_prefix(family, name, temperature):
    engine = family(name).engine
    trees = ragged_trees(seed=1, num_trees=2)
    sampling = SamplingParams(temperature=temperature, top_p=0.95)
    found = engine.continue_prefixes(trees, sampling)
    assert [len(branches) for branches in found] == [8, 8]
    for tree, branches in zip(trees, found, strict=True):
        for branch, completions in zip(tree.branches, branches, strict=True):
            expected = one_by_one(engine, tree, branch, sampling)
            assert [c.token_ids for c in completions] == [c.token_ids for c in expected]
            for c, e in zip(completions, expected, strict=True):
                assert c.logprobs == pytest.approx(e.logprobs, abs=1e-4)
                assert (c.text, c.finish_reason) == (e.text, e.finish_reason)


def test_greedy_continuations_are_the_models_own(family):
    f = family("llama")
    (tree,) = ragged_trees(seed=2, num_trees=1)
    found = f.engine.continue_prefixes([tree], SamplingParams(temperature=0))[0]
    for branch, completions in zip(tree.branches, found, strict=True):
        prefix = [*tree.prompt_ids, *branch.token_ids]
        assert completions[0].token_ids == f.greedy(prefix, branch.max_new_tokens)


def random_tree(rng: random.Random) -> PrefixTree:
    """A three-letter alphabet, so that branches share prefixes by chance."""
    branches = [
        Branch(
            token_ids=[rng.randrange(4, 7) for _ in range(rng.randrange(6))],
            num_samples=rng.randrange(1, 3),
            max_new_tokens=1,
            seed=rng.randrange(100),
        )
        for _ in range(rng.randrange(1, 6))
    ]
    return PrefixTree(prompt_ids=[rng.randrange(4, 7) for _ in range(rng.randrange(1, 4))], branches=branches)


def test_counters_are_the_tries_node_counts(checkpoints):
    engine = TorchEngine.from_pretrained(
        str(checkpoints["llama"]), dtype=torch.float32, device=CPU, max_batch_tokens=40
    )
    rng = random.Random(0)
    for _ in range(200):
        tree = random_tree(rng)
        before = engine.stats()
        engine.continue_prefixes([tree], SamplingParams())
        after = engine.stats()
        whole = [(*tree.prompt_ids, *b.token_ids) for b in tree.branches] + [tuple(tree.prompt_ids)]
        nodes = {path[:i] for path in whole for i in range(1, len(path) + 1)}
        asked = sum(b.num_samples * len(w) for b, w in zip(tree.branches, whole, strict=False))
        assert after.prefill_tokens - before.prefill_tokens == len(nodes)
        assert after.prompt_tokens_asked - before.prompt_tokens_asked == asked
        assert after.requests - before.requests == sum(b.num_samples for b in tree.branches)


def test_one_tree_larger_than_the_budget_runs_in_parts(family, checkpoints):
    trees = ragged_trees(seed=3)
    small = TorchEngine.from_pretrained(
        str(checkpoints["qwen3"]), dtype=torch.float32, device=CPU, max_batch_tokens=64
    )
    expected = family("qwen3").engine.continue_prefixes(trees, SamplingParams())
    found = small.continue_prefixes(trees, SamplingParams())
    assert [[[c.token_ids for c in b] for b in t] for t in found] == [
        [[c.token_ids for c in b] for b in t] for t in expected
    ]


def test_passes_may_cut_a_path_anywhere(family, monkeypatch):
    engine = family("mistral_window").engine
    trees = ragged_trees(seed=4)
    expected = engine.continue_prefixes(trees, SamplingParams(temperature=0))
    monkeypatch.setattr("fastrl.engine.tree.prefill._PASS_TOKENS", 5)
    monkeypatch.setattr("fastrl.engine.tree.prefill._SMALLEST_PIECE", 1)
    found = engine.continue_prefixes(trees, SamplingParams(temperature=0))
    assert [[[c.token_ids for c in b] for b in t] for t in found] == [
        [[c.token_ids for c in b] for b in t] for t in expected
    ]


def test_trees_without_branches(family):
    engine = family("qwen3").engine
    tree = ragged_trees(seed=5, num_trees=1)[0]
    bare = PrefixTree(prompt_ids=[5], branches=[])
    found = engine.continue_prefixes([bare, tree, bare], SamplingParams())
    assert [len(branches) for branches in found] == [0, 8, 0]
    assert engine.continue_prefixes([], SamplingParams()) == []
