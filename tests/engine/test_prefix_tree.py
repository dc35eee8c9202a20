import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.engine.prefix_tree import build_trie

token = st.integers(0, 2)  # a small alphabet makes many shared prefixes
branch_lists = st.lists(st.lists(token, max_size=7), max_size=8)


@settings(max_examples=300, deadline=None)
@given(st.lists(token, min_size=1, max_size=4), branch_lists)
def test_slots_are_the_distinct_prefixes(prompt, branches):
    trie = build_trie(prompt, branches)
    whole = [tuple(prompt) + tuple(b) for b in branches] + [tuple(prompt)]
    nodes = {path[:i]: None for path in whole for i in range(1, len(path) + 1)}
    spelled = {}
    for span in trie.spans:
        for slot in range(span.start, span.stop):
            path = span.context[: len(span.context) - (span.stop - 1 - slot)]
            assert path[-1] == slot
            assert trie.depths[slot] == len(path) - 1
            assert (path[:-1] < slot).all()
            spelled[tuple(trie.tokens[path].tolist())] = slot
    assert spelled.keys() == nodes.keys()
    assert sorted(spelled.values()) == list(range(trie.num_slots))
    for b, end in zip(branches, trie.end_slots(), strict=True):
        assert spelled[tuple(prompt) + tuple(b)] == end
    for b, path, length in zip(branches, trie.end_paths, trie.end_lengths, strict=True):
        if length:
            assert trie.tokens[trie.paths[path][:length]].tolist() == b


def test_regular_tree_has_the_closed_form():
    # L + G R K/(K+1) with cuts at R k/(K+1): 512 + 8 * 4 * 409 where R = 5 * 409
    prompt_len, group, cuts, step = 512, 8, 4, 409
    rng = np.random.default_rng(0)
    rollouts = [[g, *rng.integers(0, 1000, 5 * step - 1).tolist()] for g in range(group)]
    branches = [r[: step * k] for r in rollouts for k in range(1, cuts + 1)]
    trie = build_trie([7] * prompt_len, branches)
    assert trie.num_slots == prompt_len + group * cuts * step == 13_600
    assert len(trie.paths) == group


def test_no_branches_and_only_empty_ones():
    assert build_trie([5, 6], []).num_slots == 2
    trie = build_trie([5, 6], [[], []])
    assert trie.num_slots == 2
    assert trie.paths == ()
    assert trie.end_slots().tolist() == [1, 1]


def test_empty_prompt_is_refused():
    with pytest.raises(ValueError, match=r"prompt_ids: expected at least one token"):
        build_trie([], [[1]])
