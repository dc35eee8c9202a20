"""Drawn tokens and their log-probs against numbers worked by hand, the distribution, and float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.engine.sampling import request_keys, uniforms
from fastrl.kernels.sample_tokens import torch_impl
from fastrl.kernels.sample_tokens.reference import keep_likely
from fastrl.ops import sample_tokens

BACKENDS = ("cpp", "torch", "reference")
backends = pytest.mark.parametrize("backend", BACKENDS)


def many(count: int) -> torch.Tensor:
    return uniforms(torch.tensor(request_keys([11] * count, range(count))), 4, 1)[:, 0]


@backends
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
def test_draws_follow_the_filtered_distribution(backend, options, kept):
    p = np.array([0.30, 0.08, 0.15, 0.05, 0.35, 0.07])
    tempered = np.where(np.isin(np.arange(6), kept), p ** (1 / options.get("temperature", 1.0)), 0)
    expected = tempered / tempered.sum()
    count = 20_000
    logits = torch.tensor(np.log(p), dtype=torch.float32)[None]
    source = torch.zeros(count, dtype=torch.int64)
    tokens, logprobs = sample_tokens(logits, many(count), source=source, backend=backend, **options)
    seen = np.bincount(tokens.numpy(), minlength=6)
    assert (seen[expected == 0] == 0).all()
    likely = expected > 0
    chi_square = ((seen - count * expected)[likely] ** 2 / (count * expected[likely])).sum()
    assert chi_square < 20.5  # p = 0.001 at 5 degrees of freedom, the most there are here
    torch.testing.assert_close(
        logprobs.double(), torch.tensor(np.log(expected[tokens.numpy()])), rtol=0, atol=1e-6
    )


@backends
def test_the_cumulative_distribution_is_inverted(backend):
    # weights 1, 0, 1/2, 1/2 are exact in fp32: the edges lie at 1/2 and 3/4
    logits = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log().expand(7, 4)
    u = torch.tensor([0.0, 0.4999, 0.5001, 0.7499, 0.7501, 0.9999, 1 - 2**-53], dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits, u, backend=backend)
    assert tokens.tolist() == [0, 0, 2, 2, 3, 3, 3]
    torch.testing.assert_close(logprobs, torch.tensor([0.5, 0.5, *[0.25] * 5]).log())


@backends
@pytest.mark.parametrize("width", [5, 512, 1300])
def test_the_top_of_the_interval_reaches_no_token_that_is_left_out(backend, width):
    logits = torch.full((1, width), -torch.inf)
    logits[0, :3] = torch.tensor([0.1, 0.3, 0.2])
    u = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logits, u, backend=backend)[0].tolist() == [2]


@backends
def test_temperature_zero_takes_the_first_maximum_and_reports_temperature_one(backend):
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, -1.0, -2.0]])
    u = torch.full((2,), 0.9, dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits, u, temperature=0, backend=backend)
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


@backends
def test_ties_at_the_edges_of_the_filters(backend):
    """Half of four equal tokens are the first two; both that tie with the second largest are kept."""
    u = torch.linspace(0, 1, 400, dtype=torch.float64)[:-1]
    source = torch.zeros(len(u), dtype=torch.int64)
    drawn = sample_tokens(torch.zeros(1, 4), u, top_p=0.5, source=source, backend=backend)[0]
    assert drawn.unique().tolist() == [0, 1]
    tied = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    drawn = sample_tokens(tied, u, top_k=2, source=source, backend=backend)[0]
    assert drawn.unique().tolist() == [0, 2, 3]


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([1, 7, 8, 511, 513, 1500]),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 600]),
    top_p=st.sampled_from([0.05, 0.7, 0.97, 1.0]),
)
def test_against_float64(backend, seed, vocab, scale, temperature, top_k, top_p):
    """The token whose share of the cumulative distribution holds u, up to rounding; and its log-prob."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocab, generator=g) * scale
    source = torch.tensor([2, 0, 1, 1])
    u = torch.rand(4, generator=g, dtype=torch.float64)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    tokens, logprobs = sample_tokens(logits, u, source=source, backend=backend, **options)
    rows = logits[source].double()
    if temperature == 0:
        assert torch.equal(tokens, rows.argmax(-1))
        fewest = most = rows.log_softmax(-1)
    else:  # in fp32 the edge of top-p may lie a token further or nearer
        fewest, most = (
            keep_likely(rows / temperature, top_k, min(1.0, top_p + slack)).log_softmax(-1)
            for slack in (-1e-5, 1e-5)
        )
        ends = [each.exp().cumsum(-1).gather(-1, tokens[:, None])[:, 0] for each in (fewest, most)]
        own = [each.exp().gather(-1, tokens[:, None])[:, 0] for each in (fewest, most)]
        assert (u < torch.maximum(*ends) + 1e-5).all()
        assert (u > torch.minimum(ends[0] - own[0], ends[1] - own[1]) - 1e-5).all()
    low, high = (each.gather(-1, tokens[:, None])[:, 0].float() for each in (most, fewest))
    slack = 5e-5 + 1e-5 * low.abs()
    assert (logprobs >= low - slack).all()
    assert ((logprobs <= high + slack) | high.isinf()).all()


@backends
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.5}])
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_row_that_is_not_a_number_shows_it(backend, options, odd):
    logits = torch.tensor([[0.0, odd, 1.0], [0.0, 1.0, 2.0]])
    u = torch.full((2,), 0.2, dtype=torch.float64)
    tokens, logprobs = sample_tokens(logits, u, backend=backend, **options)
    assert logprobs[0].isnan() and 0 <= tokens[0] < 3 and logprobs[1].isfinite()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_row_layout_change_no_bit(threads):
    g = torch.Generator().manual_seed(3)
    wide = torch.randn(40, 20_000, generator=g)
    u = torch.rand(40, generator=g, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = sample_tokens(wide[:, :15_000], u, top_p=0.9, backend="cpp")
    finally:
        torch.set_num_threads(before)
    one_by_one = [
        sample_tokens(wide[i : i + 1, :15_000].contiguous(), u[i : i + 1], top_p=0.9) for i in range(40)
    ]
    assert whole[0].tolist() == [int(ids) for ids, _ in one_by_one]
    assert whole[1].tolist() == [float(logprobs) for _, logprobs in one_by_one]


def test_large_draws_are_cut_without_a_trace(monkeypatch):
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 50, generator=g)
    u = torch.rand(9, generator=g, dtype=torch.float64)
    whole = sample_tokens(logits, u, top_p=0.8, backend="torch")
    monkeypatch.setattr(torch_impl, "_CHUNK_ELEMENTS", 200)
    parts = sample_tokens(logits, u, top_p=0.8, backend="torch")
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"uniforms": torch.zeros(2)}, TypeError, "uniforms: expected torch.float64"),
        ({"uniforms": torch.zeros(3, dtype=torch.float64)}, ValueError, "uniforms: expected shape"),
        ({"logits": torch.zeros(4)}, ValueError, "logits: expected shape"),
        ({"source": torch.tensor([0, 2])}, ValueError, r"source: expected rows in \[0, 2\)"),
        ({"temperature": -1.0}, ValueError, "temperature: expected >= 0"),
        ({"top_k": -1}, ValueError, "top_k: expected >= 0"),
        ({"top_p": 0.0}, ValueError, r"top_p: expected in \(0, 1\]"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    arguments = {"logits": torch.zeros(2, 5), "uniforms": torch.zeros(2, dtype=torch.float64)} | changes
    with pytest.raises(error, match=rf"\[sample_tokens\] {message}"):
        sample_tokens(**arguments)
