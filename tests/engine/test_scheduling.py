import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.engine.jobs import Cost, choose, cost_of, make_job
from fastrl.engine.prefill import passes
from fastrl.engine.prefix_tree import build_trie
from fastrl.engine.sampling import request_keys
from fastrl.engine.stopping import StopRule, Vocabulary
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


def test_job_keeps_names_and_keys_together():
    job = make_job(tree(4, (3, 2, 5), (0, 1, 6), (2, 1, 7)), first_row=10)
    named = dict(zip(job.rows.tolist(), zip(job.path_length, job.limit, job.key, strict=True), strict=True))
    keys = request_keys([0, 0, 1, 2], [0, 1, 0, 0])
    assert named == {10: (3, 5, keys[0]), 11: (3, 5, keys[1]), 12: (0, 6, keys[2]), 13: (2, 7, keys[3])}


def test_cost_is_padded_tiers_and_room_to_generate():
    a, b = make_job(tree(4, (3, 2, 5), (0, 1, 6)), 0), make_job(tree(9, (2, 1, 8)), 3)
    assert cost_of(a, 3) == Cost(trees=1, prompt=4, paths=1, path=3, rows=3, limit=6)
    both = Cost(trees=2, prompt=9, paths=2, path=3, rows=4, limit=8)
    assert cost_of(a, 3).joined(cost_of(b, 1)) == cost_of(b, 1).joined(cost_of(a, 3)) == both
    assert both.tokens == 2 * 9 + 2 * 3 + 4 * 8


def test_choose():
    jobs = [
        make_job(tree(10, (0, 4, 5)), 0),
        make_job(tree(10, (0, 4, 5)), 4),
        make_job(tree(10, (0, 4, 5)), 8),
    ]
    assert choose(jobs, free=90, at_least_one=True) == [4, 4, 4]
    assert choose(jobs, free=89, at_least_one=True) == [4, 4]
    assert choose(jobs, free=29, at_least_one=False) == []
    assert choose(jobs, free=29, at_least_one=True) == [3]  # 10 + 3 * 5 <= 29 < 10 + 4 * 5
    assert choose(jobs, free=0, at_least_one=True) == [1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 30))
def test_passes_cover_every_token_once(lengths, limit, prompt_len):
    branches = [[branch, *range(length)] for branch, length in enumerate(lengths)]
    trie = build_trie([1] * (prompt_len + 1), branches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastrl.engine.prefill._PASS_TOKENS", limit)
        patch.setattr("fastrl.engine.prefill._PASS_SCORES", 200)
        patch.setattr("fastrl.engine.prefill._SMALLEST_PIECE", 1)
        pieces = list(passes(trie.spans))
    flat = [span for piece in pieces for span in piece]
    assert [slot for span in flat for slot in range(span.start, span.stop)] == list(range(trie.num_slots))
    for piece in pieces:
        assert sum(span.stop - span.start for span in piece) <= limit
        scores = sum((span.stop - span.start) * len(span.context) for span in piece)
        assert scores <= 200 or sum(span.stop - span.start for span in piece) == 1
    for span in flat:
        assert span.context[-1] == span.stop - 1
        assert len(span.context) == trie.depths[span.stop - 1] + 1


def stops(tokenizer, sampling: SamplingParams, tokens: list[list[int]], start: int) -> list[int]:
    rule = StopRule(Vocabulary(tokenizer, 260), [1], sampling)
    rows = np.asarray(tokens, dtype=np.int32)
    return rule.first_stop(rows[:, start:], rows, start, np.ones(len(rows), dtype=bool)).tolist()


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
        StopRule(Vocabulary(tokenizer, 260), [1], SamplingParams(stop=("",)))


def test_spaces_end_strings_too(family):
    tokenizer = family("qwen3").engine.tokenizer
    row = tokenizer.encode("a b\n\nc", add_special_tokens=False)
    assert stops(tokenizer, SamplingParams(stop=("\n\n",)), [row], 0) == [4]
