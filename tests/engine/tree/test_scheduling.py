import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_cases import CPU, ragged_trees
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.engine.requests import RequestLimits
from fastrl.engine.sampling import request_keys
from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.tree.kv_pool import BLOCK, KVPool, blocks_of
from fastrl.engine.tree.prefill import passes, spans_of
from fastrl.engine.tree.request_tree import make_request_tree
from fastrl.engine.tree.stopping import StopRule, Vocabulary
from fastrl.ops import prefix_tree
from fastrl.types import Branch, PrefixTree, SamplingParams


def tree(prompt_len: int, *branches: tuple[int, int, int]) -> PrefixTree:
    """branches: (length, num_samples, max_new_tokens), nested along one trunk."""
    return PrefixTree(
        prompt_ids=[1] * prompt_len,
        branches=[
            Branch(token_ids=list(range(length)), num_samples=n, max_new_tokens=new, seed=i)
            for i, (length, n, new) in enumerate(branches)
        ],
    )


def test_a_request_tree_keeps_ids_and_keys_together():
    requests = make_request_tree(tree(4, (3, 2, 5), (0, 1, 6), (2, 1, 17)), [10, 12, 13], range(3))
    found = zip(requests.prefix_lengths, requests.limit, requests.tail_blocks, requests.key, strict=True)
    keys = request_keys([0, 0, 1, 2], [0, 1, 0, 0])
    assert dict(zip(requests.request_ids.tolist(), found, strict=True)) == {
        10: (7, 5, 1, keys[0]), 11: (7, 5, 1, keys[1]), 12: (4, 6, 1, keys[2]), 13: (6, 17, 1, keys[3])
    }  # fmt: skip
    assert (np.diff(requests.segment) >= 0).all()
    assert requests.prompt_len == 4
    assert requests.blocks_needed() == 1 + 1
    assert make_request_tree(tree(17, (3, 1, 18)), [0], [0]).blocks_needed() == 2 + 2
    single = make_request_tree(tree(1, (0, 1, 1)), [0], [0])
    assert single.tail_blocks.tolist() == [0]  # its only token never is an input


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=40))
def test_pool_gives_no_slot_twice(steps):
    pool = KVPool(40 * BLOCK)
    held: dict[int, list[tuple[int, int]]] = {}
    for number, (trunk, tokens) in enumerate(steps):
        if trunk:
            start = pool.take_trunk(tokens)
            if start is not None:
                held[number] = [(start, tokens)]
        elif pool.free_blocks >= blocks_of(tokens):
            held[number] = [(int(s), BLOCK) for s in pool.take_blocks(blocks_of(tokens))]
        slots = [slot for ranges in held.values() for s, n in ranges for slot in range(s, s + n)]
        assert len(slots) == len(set(slots))
        assert all(0 <= slot < 40 * BLOCK for slot in slots)
        assert pool.used_tokens == sum(blocks_of(n) * BLOCK for ranges in held.values() for _, n in ranges)
        if number % 3 == 2 and held:
            for start, length in held.pop(next(iter(held))):
                pool.give_trunk(start, length)
    with pytest.raises(RuntimeError, match=r"\[kv_pool\] blocks: expected 99 free ones"):
        pool.take_blocks(99)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=6), st.integers(1, 20))
def test_passes_cover_every_token_once(branches, limit):
    forest = prefix_tree([[9, 9], *([9, 9, *branch] for branch in branches)])
    spans = spans_of(forest, 1000 + np.arange(forest.num_slots), start=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastrl.engine.tree.prefill._PASS_TOKENS", limit)
        patch.setattr("fastrl.engine.tree.prefill._PASS_SCORES", 200)
        patch.setattr("fastrl.engine.tree.prefill._SMALLEST_PIECE", 1)
        pieces = list(passes(spans))
    flat = [span for piece in pieces for span in piece]
    stream = [token for span in flat for token in range(span.start, span.stop)]
    assert stream == list(range(7, 7 + forest.num_slots))
    for piece in pieces:
        assert sum(span.stop - span.start for span in piece) <= limit
        scores = sum((span.stop - span.start) * len(span.context) for span in piece)
        assert scores <= 200 or sum(span.stop - span.start for span in piece) == 1
    for span in flat:
        path = span.context - 1000
        assert path[-1] == span.stop - 1 - 7
        assert forest.depths[path].tolist() == list(range(len(path)))
        stops = forest.subtree_stop()
        assert all(slot <= path[-1] < stops[slot] for slot in path)


def small_engine(checkpoints, **options) -> TorchEngine:
    return TorchEngine.from_pretrained(str(checkpoints["llama"]), dtype=torch.float32, device=CPU, **options)


def tokens(found) -> list:
    return [[[c.token_ids for c in branch] for branch in branches] for branches in found]


def test_nothing_stays_in_the_pool(family, checkpoints):
    trees = ragged_trees(seed=6, num_trees=5)
    expected = tokens(family("llama").engine.continue_prefixes(trees, SamplingParams()))
    for budget in (48, 100, 1000):
        engine = small_engine(checkpoints, max_batch_tokens=budget)
        assert tokens(engine.continue_prefixes(trees, SamplingParams())) == expected
        assert engine.pool.used_tokens == 0
        engine.sleep()
        engine.wake()
        assert tokens(engine.continue_prefixes(trees, SamplingParams())) == expected


def test_a_pool_too_small_for_a_path_says_what_it_takes(checkpoints):
    asked = tree(30, (40, 2, 33))  # 70 tokens are 5 blocks, 32 are 2
    with pytest.raises(
        ValueError, match=r"max_batch_tokens: expected >= 96 for a path of 70 tokens .* got 80"
    ):
        small_engine(checkpoints, max_batch_tokens=80).continue_prefixes([asked], SamplingParams())
    found = small_engine(checkpoints, max_batch_tokens=96).continue_prefixes([asked], SamplingParams())
    assert len(found[0][0]) == 2


def test_a_tree_too_large_for_the_pool_goes_in_parts(family, checkpoints):
    (whole,) = ragged_trees(seed=8, num_trees=1)
    branches = [
        replace(branch, token_ids=[*branch.token_ids, *[9 + i] * 40])
        for i, branch in enumerate(whole.branches)
    ]
    branches.append(Branch(token_ids=branches[2].token_ids[:20], num_samples=0, max_new_tokens=1, seed=0))
    asked, sampling = replace(whole, branches=branches), SamplingParams()
    scored = [(1, 6, 8)]
    expected = family("llama").engine.continue_and_score([asked], sampling, scored)
    engine = small_engine(checkpoints, max_batch_tokens=128)
    found = engine.continue_and_score([asked], sampling, scored)
    assert tokens(found[0]) == tokens(expected[0])
    assert found[1][0].keys() == set(scored[0])
    for branch, values in found[1][0].items():
        sequence = [*asked.prompt_ids, *branches[branch].token_ids]
        own = engine.score([sequence])[0].logprobs[len(asked.prompt_ids) :]
        assert values == pytest.approx(own, abs=1e-4)
        assert values == pytest.approx(expected[1][0][branch], abs=1e-4)
    assert engine.stats().prefill_tokens > family("llama").engine.pool.used_tokens == 0
    assert engine.pool.used_tokens == 0


def test_a_failed_call_holds_nothing(checkpoints):
    engine = small_engine(checkpoints)
    weights = {name: p.clone() for name, p in engine.decoder.model.named_parameters()}
    poisoned = {**weights, "lm_head.weight": weights["lm_head.weight"] * torch.nan}
    engine.load_weights(poisoned.items(), 1)
    with pytest.raises(FloatingPointError):
        engine.generate([[5, 6]], SamplingParams(max_new_tokens=3), seeds=[0])
    assert engine.pool.used_tokens == 0
    engine.load_weights(weights.items(), 2)
    assert engine.generate([[5, 6]], SamplingParams(max_new_tokens=3), seeds=[0])


def test_counters_equal_the_closed_forms(checkpoints):
    """L + G R K / (K + 1) prefilled tokens, G N (K L + R K / 2) asked; rollouts of R tokens share nothing."""
    engine, rng = small_engine(checkpoints), random.Random(1)
    for _ in range(200):
        length, rollouts, cuts, samples = (
            rng.randint(1, 9),
            rng.randint(1, 4),
            rng.randint(1, 4),
            rng.randint(1, 3),
        )
        whole = (cuts + 1) * rng.randint(1, 4)
        branches = [
            Branch(
                token_ids=[10 + r, *[4] * (whole * k // (cuts + 1) - 1)], num_samples=samples,
                max_new_tokens=1, seed=0,
            )
            for r in range(rollouts)
            for k in range(1, cuts + 1)
        ]  # fmt: skip
        before = engine.stats()
        engine.continue_prefixes([PrefixTree(prompt_ids=[5] * length, branches=branches)], SamplingParams())
        after = engine.stats()
        computed = length + rollouts * whole * cuts // (cuts + 1)
        asked = rollouts * samples * (cuts * length + whole * cuts // 2)
        assert after.prefill_tokens - before.prefill_tokens == computed
        assert after.prompt_tokens_asked - before.prompt_tokens_asked == asked
    assert engine.pool.used_tokens == 0


def stops(tokenizer, sampling: SamplingParams, tokens: list[list[int]], start: int) -> list[int]:
    rule = StopRule(Vocabulary(tokenizer, 260), [1], sampling)
    rows = np.asarray(tokens, dtype=np.int32)
    names = np.arange(len(rows))
    return rule.first_stop(rows[:, start:], rows, names, np.full(len(rows), start)).tolist()


def test_first_stop(family):
    tokenizer = family("qwen3").engine.tokenizer
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    row = encode("ab.cd.é")
    assert stops(tokenizer, SamplingParams(), [[*row, 1], [*row, 9]], 2) == [6, 7]
    assert stops(tokenizer, SamplingParams(), [[*row, 1, 1]], 7) == [1]
    assert stops(tokenizer, SamplingParams(stop=(".c",)), [row], 0) == [3]
    assert stops(tokenizer, SamplingParams(stop=(".c",)), [row], 3) == [0]  # begun before this look
    assert stops(tokenizer, SamplingParams(stop=("é",)), [row], 0) == [7]  # the second of its two bytes
    assert stops(tokenizer, SamplingParams(stop=("d.", "b."), stop_token_ids=(row[1],)), [row], 0) == [1]
    with pytest.raises(ValueError, match="at least one character"):
        RequestLimits(260, 100).check_stops(SamplingParams(stop=("",)))


def test_spaces_end_strings_too(family):
    tokenizer = family("qwen3").engine.tokenizer
    row = tokenizer.encode("a b\n\nc", add_special_tokens=False)
    assert stops(tokenizer, SamplingParams(stop=("\n\n",)), [row], 0) == [4]
