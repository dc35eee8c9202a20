import numpy as np
import pytest
import torch

from fastrl.engine.sampling import draw, keep_likely, request_keys, uniforms
from fastrl.types import SamplingParams

MASK = (1 << 64) - 1


def splitmix64(state: int, steps: int) -> int:
    """Output `steps` + 1 of the generator that starts at `state`, in Python integers."""
    z = (state + (steps + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_uniforms_are_splitmix64():
    assert splitmix64(0, 0) == 0xE220A8397B1DCDAF  # the generator's published first output for seed 0
    keys = [0, 5, -3, 2**63 - 1, -(2**63)]
    found = uniforms(torch.tensor(keys), 2, 3)
    expected = [[(splitmix64(key & MASK, s) >> 11) / 2**53 for s in (2, 3, 4)] for key in keys]
    assert found.tolist() == expected
    assert ((found >= 0) & (found < 1)).all()


def test_request_keys_differ_by_seed_and_sample():
    seeds = [s for s in range(100) for _ in range(20)]
    samples = list(range(20)) * 100
    assert len(set(request_keys(seeds, samples))) == 2000
    assert request_keys([2**70 + 3], [0]) == request_keys([(2**70 + 3) % 2**64], [0])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 3}, [0, 2, 4]),
        ({"top_p": 0.6}, [0, 4]),
        ({"top_k": 3, "top_p": 0.6, "temperature": 2.0}, [0, 4]),
    ],
)
def test_draws_follow_the_filtered_distribution(options, kept):
    p = np.array([0.30, 0.08, 0.15, 0.05, 0.35, 0.07])
    sampling = SamplingParams(**options)
    tempered = np.where(np.isin(np.arange(6), kept), p ** (1 / sampling.temperature), 0)
    expected = tempered / tempered.sum()
    count = 20_000
    u = uniforms(torch.tensor(request_keys([11] * count, range(count))), 4, 1)[:, 0]
    logits = torch.tensor(np.log(p), dtype=torch.float32)[None]
    tokens, logprobs = draw(logits, u, sampling, torch.zeros(count, dtype=torch.int64))
    seen = np.bincount(tokens.numpy(), minlength=6)
    assert (seen[expected == 0] == 0).all()
    likely = expected > 0
    chi_square = ((seen - count * expected)[likely] ** 2 / (count * expected[likely])).sum()
    assert chi_square < 20.5  # p = 0.001 at 5 degrees of freedom, the most there are here
    torch.testing.assert_close(
        logprobs.double(), torch.tensor(np.log(expected[tokens.numpy()])), rtol=0, atol=1e-6
    )


def test_draw_inverts_the_cumulative_distribution():
    logits = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log().expand(7, 4)
    u = torch.tensor([0.0, 0.4999, 0.5, 0.7499, 0.75, 0.9999, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs = draw(logits, u, SamplingParams())
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3, 3]
    torch.testing.assert_close(logprobs, torch.tensor([0.5, 0.5, *[0.25] * 5]).log())


def test_top_of_the_interval_never_reaches_a_filtered_token():
    logits = torch.tensor([[0.1, 0.3, 0.2, -torch.inf, -torch.inf]])
    u = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert draw(logits, u, SamplingParams())[0].tolist() == [2]


def test_greedy_takes_the_first_maximum_and_reports_temperature_one():
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]])
    tokens, logprobs = draw(logits, torch.full((2,), 0.9, dtype=torch.float64), SamplingParams(temperature=0))
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[[0, 1], [1, 0]])


def test_filters_compose_like_the_field_does():
    # after top-k 3 the mass is .5/.9, .25/.9, .15/.9; top-p 0.6 needs the first two (0.556 < 0.6)
    logits = torch.tensor([[0.25, 0.1, 0.5, 0.15]]).log()
    assert keep_likely(logits, 3, 0.6).isfinite().tolist() == [[True, False, True, False]]
    # without top-k the first alone has 0.5 >= 0.5
    assert keep_likely(logits, 0, 0.5).isfinite().tolist() == [[False, False, True, False]]
    # ties at the edge: the smaller id stays; ties with the k-th: both stay
    assert keep_likely(torch.zeros(1, 4), 0, 0.5).isfinite().tolist() == [[True, True, False, False]]
    assert keep_likely(torch.tensor([[1.0, 0.0, 1.0, 1.0]]), 2, 1.0).isfinite().tolist() == [
        [True, False, True, True]
    ]


def test_large_draws_are_cut_without_a_trace(monkeypatch):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 50, generator=g)
    u = torch.rand(9, generator=g, dtype=torch.float64)
    whole = draw(logits, u, SamplingParams(top_p=0.8))
    monkeypatch.setattr("fastrl.engine.sampling._DRAW_ELEMENTS", 200)
    parts = draw(logits, u, SamplingParams(top_p=0.8))
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
