"""Log-probs under top-k and top-p: the distribution that the sampler drew from."""

from __future__ import annotations

import math

import pytest
import torch
from backends import BACKENDS, FAST, thinned

from fastrl.kernels.sample_tokens.reference import keep_likely
from fastrl.ops import LossConfig, linear_grpo_loss, linear_logprob

SUPPORTS = [(1, 1.0), (5, 1.0), (0, 0.6), (20, 0.8), (0, 1e-6), (500, 0.9)]


def oracle(hidden, weight, ids, top_k, top_p, temperature=1.0):
    """float64; the support by rank, one row after the other."""
    rows = []
    for z, i in zip(hidden.double() @ weight.double().T / temperature, ids, strict=True):
        order = z.argsort(descending=True).tolist()[: top_k or len(z)]
        p = torch.tensor([float(z[v]) for v in order], dtype=torch.float64).softmax(0)
        kept = [v for rank, v in enumerate(order) if float(p[:rank].sum()) < top_p or top_p == 1]
        inside = z[sorted({*kept, int(i)})]
        logp = inside.log_softmax(0)
        rows.append(torch.stack([z[i] - inside.logsumexp(0), -(logp.exp() * logp).sum()]))
    return torch.stack(rows).unbind(1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("top_k", "top_p"), SUPPORTS)
@pytest.mark.parametrize("vocab", [11, 2500])
def test_against_the_oracle(backend, top_k, top_p, vocab, poisoned):
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(vocab, 8, requires_grad=True)
    ids = torch.randint(0, vocab, (9,))
    slopes = torch.linspace(-1, 2, 9)
    logprobs, entropy = oracle(hidden, weight, ids, top_k, top_p, 0.8)
    wanted = torch.autograd.grad((slopes * logprobs).sum() + (entropy * entropy).sum(), (hidden, weight))
    out = linear_logprob(
        hidden, weight, ids, temperature=0.8, top_k=top_k, top_p=top_p, chunk_rows=4, backend=backend
    )
    found = torch.autograd.grad((slopes * out.logprobs).sum() + (out.entropy**2).sum(), (hidden, weight))
    torch.testing.assert_close(out.logprobs.double(), logprobs, rtol=2e-5, atol=4e-6)
    torch.testing.assert_close(out.entropy.double(), entropy, rtol=2e-5, atol=4e-6)
    for value, want in zip(found, wanted, strict=True):
        assert (value.double() - want.double()).norm() <= 1e-5 * want.double().norm() + 1e-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked(backend):
    # probabilities 5/10, 3/10, 1/10, 1/10: top-p 0.7 keeps the first two, 5/8 and 3/8
    weight = torch.tensor([[5.0], [3.0], [1.0], [1.0]]).log()
    ids = torch.tensor([0, 1, 2])
    out = linear_logprob(torch.ones(3, 1), weight, ids, top_p=0.7, backend=backend)
    wanted = torch.tensor([5 / 8, 3 / 8, 1 / 9]).log()  # the third row's own id joins its support
    torch.testing.assert_close(out.logprobs, wanted)
    tied = linear_logprob(torch.ones(3, 1), weight, ids, top_k=3, backend=backend)
    torch.testing.assert_close(tied.logprobs, torch.tensor([0.5, 0.3, 0.1]).log())
    whole = linear_logprob(torch.ones(3, 1), weight, ids, backend=backend)
    torch.testing.assert_close(out.self_certainty, whole.self_certainty)
    assert out.top1.tolist() == [True, False, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_samplers_own_logprobs(backend):
    """What the engine's sampler keeps is what is scored; it draws from these very log-probs."""
    hidden, weight = torch.randn(4 if backend == "triton" else 12, 8), torch.randn(600, 8)
    for top_k, top_p in SUPPORTS:
        kept = keep_likely(hidden @ weight.T / 0.7, top_k, top_p).log_softmax(-1)
        ids = torch.multinomial(kept.exp(), 1)[:, 0]
        out = linear_logprob(hidden, weight, ids, temperature=0.7, top_k=top_k, top_p=top_p, backend=backend)
        torch.testing.assert_close(out.logprobs, kept.gather(1, ids[:, None])[:, 0], rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("loss_type", ["dapo", "gspo"])
def test_the_loss_sees_the_same_support(backend, loss_type):
    hidden, weight = torch.randn(12, 8, requires_grad=True), torch.randn(300, 8, requires_grad=True)
    ids = torch.randint(0, 300, (12,))
    batch = {
        "cu_seqlens": torch.tensor([0, 5, 12], dtype=torch.int32),
        "advantages": torch.tensor([1.0, -0.5]),
        "loss_mask": torch.rand(12) > 0.2,
        "old_logprobs": -torch.rand(12) * 3,
        "config": LossConfig(loss_type=loss_type, entropy_coef=0.1),
        "denominator": 3.0,
        "top_k": 20,
        "top_p": 0.9,
    }
    want = linear_grpo_loss(hidden, weight, ids, **batch, backend="reference")
    wanted = torch.autograd.grad(want.loss, (hidden, weight))
    choices = [{}, {"recompute": True}, {"chunk_rows": 5}, {"recompute": True, "chunk_rows": 5}]
    for options in thinned(choices, backend, loss_type == "gspo", every=2):
        out = linear_grpo_loss(hidden, weight, ids, **batch, **options, backend=backend)
        assert out.loss.item() == pytest.approx(want.loss.item(), rel=1e-5)
        for value, wish in zip(torch.autograd.grad(out.loss, (hidden, weight)), wanted, strict=True):
            assert (value - wish).norm() <= 1e-5 * wish.norm()


@pytest.mark.parametrize("backend", FAST)
def test_impossible_tokens_and_nan(backend):
    bias = torch.zeros(50)
    bias[3:40] = -math.inf
    hidden, weight = torch.randn(3, 4), torch.randn(50, 4)
    out = linear_logprob(hidden, weight, torch.tensor([0, 1, 45]), bias=bias, top_k=30, backend=backend)
    alone = linear_logprob(hidden, weight, torch.tensor([0, 1, 45]), bias=bias, backend=backend)
    torch.testing.assert_close(out.logprobs, alone.logprobs)
    weight[45] = math.nan
    broken = linear_logprob(hidden, weight, torch.tensor([0, 1, 2]), top_p=0.9, backend=backend)
    assert broken.logprobs.isnan().all()
