"""Sampling: 20,000 draws follow the model's distribution, whatever else is in the batch."""

from collections import Counter

import numpy as np
import pytest
import torch
from engine_cases import ids

from fastrl.types import Branch, PrefixTree, SamplingParams

DRAWS = 20_000


def chi_square_z(observed: np.ndarray, expected: np.ndarray) -> float:
    """By how many standard deviations chi-square is above its mean (Wilson, Hilferty); rare cells are one."""
    order = np.argsort(expected)
    observed, expected = observed[order], expected[order]
    rare = int((expected.cumsum() < 5).sum()) + 1
    observed = np.concatenate(([observed[:rare].sum()], observed[rare:]))
    expected = np.concatenate(([expected[:rare].sum()], expected[rare:]))
    small = expected < 5
    observed = np.concatenate((observed[~small], [observed[small].sum()] if small.any() else []))
    expected = np.concatenate((expected[~small], [expected[small].sum()] if small.any() else []))
    freedom = len(expected) - 1
    chi = ((observed - expected) ** 2 / np.maximum(expected, 1e-12)).sum()
    spread = 2 / (9 * freedom)
    return ((chi / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.7, top_p=0.9)])
@torch.no_grad()
@pytest.mark.slow
def test_continuations_follow_the_models_distribution(family, name, sampling):
    f = family(name)
    g = torch.Generator().manual_seed(11)
    prompt, cut = ids(g, 5), ids(g, 7)
    branches = [
        Branch(token_ids=cut[:length], num_samples=DRAWS // 2, max_new_tokens=2, seed=seed)
        for length, seed in ((7, 1), (7, 2))
    ] + [Branch(token_ids=cut[:3], num_samples=40, max_new_tokens=5, seed=3)]
    found = f.engine.continue_prefixes([PrefixTree(prompt_ids=prompt, branches=branches)], sampling)[0]
    drawn = [c.token_ids for completions in found[:2] for c in completions]
    first = probabilities(f, [*prompt, *cut], sampling)
    counts = np.bincount([tokens[0] for tokens in drawn], minlength=len(first))
    assert not counts[first == 0].any()
    assert abs(chi_square_z(counts, DRAWS * first)) < 4
    token, times = Counter(tokens[0] for tokens in drawn if len(tokens) > 1).most_common(1)[0]
    second = probabilities(f, [*prompt, *cut, token], sampling)
    following = np.bincount(
        [tokens[1] for tokens in drawn if tokens[0] == token and len(tokens) > 1], minlength=len(second)
    )
    assert not following[second == 0].any()
    assert abs(chi_square_z(following, times * second)) < 4


def probabilities(f, sequence: list[int], sampling: SamplingParams) -> np.ndarray:
    """softmax(logits / temperature) within the smallest set of mass >= top_p, in float64."""
    p = (f.logits(sequence)[-1] / sampling.temperature).softmax(-1)
    ranked, order = p.sort(descending=True)
    p[order[int((ranked.cumsum(0) < sampling.top_p).sum()) + 1 :]] = 0
    return (p / p.sum()).numpy()


def test_a_wrong_distribution_is_detected():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(200))
    counts = rng.multinomial(DRAWS, p)
    assert abs(chi_square_z(counts, DRAWS * p)) < 4
    tilted = p**0.9 / (p**0.9).sum()
    assert chi_square_z(counts, DRAWS * tilted) > 4
