from __future__ import annotations

import math

import pytest
import torch
from backends import BACKENDS, FAST
from grpo_oracle import oracle_logprobs

from fastrl.kernels._products import HeadProducts
from fastrl.ops import linear_logprob

# below one vector of 16, one over a power of two, a real vocabulary that no tile divides
SHAPES = [(1, 3, 1), (1, 5, 11), (7, 8, 16), (19, 16, 257), (3, 8, 32003)]
OPTIONS = {
    "plain": {},
    "scaled": {"temperature": 0.7, "logit_scale": 1.3},
    "row temperature": {"temperature": "rows"},
    "bias": {"bias": True},
    "softcap": {"softcap": 3.0, "temperature": "rows", "logit_scale": 0.5, "bias": True},
}
# logits and sums are float32, hidden is rounded to half precision before the oracle sees it
TOLERANCE = {"rtol": 2e-5, "atol": 4e-6}


def make_inputs(shape, options, dtype=torch.float32):
    num_rows, width, vocab = shape
    options = dict(options)
    if options.get("temperature") == "rows":
        options["temperature"] = torch.rand(num_rows) + 0.5
    if options.get("bias"):
        options["bias"] = torch.randn(vocab, requires_grad=True)
    hidden = torch.randn(num_rows, width).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab, (num_rows,)), options


def leaves(hidden, weight, options):
    return [hidden, weight] + ([options["bias"]] if "bias" in options else [])


def scalar(logprobs, entropy):
    """Something whose gradients differ from row to row, and with which both outputs matter."""
    return (logprobs * torch.linspace(-1, 2, len(logprobs))).sum() + (entropy * entropy).sum() * 0.3


def gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_the_oracle(backend, options, shape, poisoned):
    hidden, weight, ids, options = make_inputs(shape, OPTIONS[options])
    expected = oracle_logprobs(hidden, weight, ids, **options)
    wanted = gradients(scalar(expected[0], expected[1]), leaves(hidden, weight, options))
    out = linear_logprob(hidden, weight, ids, **options, chunk_rows=4, backend=backend)
    found = gradients(scalar(out.logprobs, out.entropy), leaves(hidden, weight, options))
    for value, want in zip((out.logprobs, out.entropy, out.self_certainty), expected, strict=False):
        torch.testing.assert_close(value.double(), want, **TOLERANCE)
    assert torch.equal(out.top1, expected[3])
    for value, want in zip(found, wanted, strict=True):
        # a rounded logit near 16 moves p by 1e-6; the entropy's slope multiplies that by -log p near 10
        assert (value.double() - want.double()).norm() <= 1e-5 * want.double().norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked(backend):
    # logits (0, ln 2, ln 5): probabilities 1/8, 2/8, 5/8
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]])
    out = linear_logprob(torch.ones(2, 1), weight, torch.tensor([1, 2]), backend=backend)
    entropy = -(math.log(1 / 8) / 8 + math.log(2 / 8) / 4 + math.log(5 / 8) * 5 / 8)
    certainty = math.log(8) - math.log(10) / 3 - math.log(3)
    torch.testing.assert_close(out.logprobs, torch.tensor([1 / 4, 5 / 8]).log())
    torch.testing.assert_close(out.entropy, torch.full((2,), entropy))
    torch.testing.assert_close(out.self_certainty, torch.full((2,), certainty))
    assert out.top1.tolist() == [False, True]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "dtypes", [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)], ids=str
)
def test_half_precision_hidden(backend, dtypes):
    """Products of bfloat16 are summed in float32; a float32 weight is rounded, its gradient is float32."""
    hidden, weight, ids, _ = make_inputs((9, 32, 257), {}, dtypes[0])
    weight = weight.detach().to(dtypes[1]).requires_grad_()
    rounded = weight.detach().to(dtypes[0]).double().requires_grad_()
    expected = oracle_logprobs(hidden, rounded, ids)
    wanted = gradients(scalar(*expected[:2]), (hidden, rounded))
    out = linear_logprob(hidden, weight, ids, chunk_rows=4, backend=backend)
    found = gradients(scalar(out.logprobs, out.entropy), (hidden, weight))
    torch.testing.assert_close(out.logprobs.double(), expected[0], **TOLERANCE)
    assert (found[0].dtype, found[1].dtype) == (hidden.dtype, weight.dtype)
    for value, want in zip(found, wanted, strict=True):
        unit = 2**-9 if value.dtype == torch.bfloat16 else 1e-5  # one rounding at the end, or none
        assert (value.double() - want.double()).norm() <= unit * want.double().norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_logits(backend):
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    out = linear_logprob(hidden, weight, torch.tensor([0, 0, 2]), backend=backend)
    assert out.logprobs.tolist() == [0.0, -2e4, -5e3]
    assert out.entropy.tolist() == [0.0, 0.0, 0.0]
    grads = gradients(out.logprobs.sum() + out.entropy.sum(), (hidden, weight))
    assert all(torch.isfinite(each).all() for each in grads)


@pytest.mark.parametrize("backend", FAST)
def test_confident_tokens_keep_their_gradient(backend):
    """Margin 40: even in float64, log(1 + exp(-40)) is 0; log1p keeps -exp(-40) and the gradient of it."""
    hidden = torch.ones(1, 1, requires_grad=True)
    weight = torch.tensor([[40.0], [0.0]])
    out = linear_logprob(hidden, weight, torch.tensor([0]), backend=backend)
    (grad,) = gradients(out.logprobs.sum(), (hidden,))
    assert out.logprobs.item() == pytest.approx(-math.exp(-40), rel=1e-5)
    assert grad.item() == pytest.approx(40 * math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_impossible_tokens(backend):
    """A bias of -inf takes a token out of the vocabulary."""
    bias = torch.zeros(5)
    bias[3] = -math.inf
    hidden, weight, ids, _ = make_inputs((4, 3, 5), {})
    ids.clamp_(max=2)
    kept = torch.tensor([0, 1, 2, 4])
    expected = oracle_logprobs(hidden, weight[kept], ids)
    out = linear_logprob(hidden, weight, ids, bias=bias, backend=backend)
    torch.testing.assert_close(out.logprobs.double(), expected[0], **TOLERANCE)
    torch.testing.assert_close(out.entropy.double(), expected[1], **TOLERANCE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_shows(backend):
    hidden, weight, ids, _ = make_inputs((3, 4, 40), {})
    with torch.no_grad():
        weight[17, 0] = math.nan
    out = linear_logprob(hidden, weight, ids, backend=backend)
    assert out.logprobs.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend):
    hidden, weight, ids, _ = make_inputs((0, 4, 11), {})
    out = linear_logprob(hidden, weight, ids, backend=backend)
    grads = gradients(out.logprobs.sum() + out.entropy.sum(), (hidden, weight))
    assert out.logprobs.shape == (0,)
    assert grads[0].shape == (0, 4)
    assert torch.equal(grads[1], torch.zeros(11, 4))


def test_backward_computes_logits_only_of_active_rows(monkeypatch):
    rows = []
    original = HeadProducts.logits
    monkeypatch.setattr(
        HeadProducts,
        "logits",
        lambda self, operand, *args: (rows.append(len(operand)), original(self, operand, *args)),
    )
    hidden, weight, ids, _ = make_inputs((10, 4, 11), {})
    out = linear_logprob(hidden, weight, ids, backend="cpp")
    out.logprobs[2:5].sum().backward()
    assert rows == [10, 3]


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradcheck(backend):
    hidden, weight, ids, options = make_inputs((4, 3, 7), OPTIONS["softcap"], torch.float64)
    bias = options.pop("bias").detach().double().requires_grad_()

    def both(hidden, weight, bias):
        out = linear_logprob(hidden, weight, ids, bias=bias, **options, chunk_rows=3, backend=backend)
        return out.logprobs, out.entropy

    assert torch.autograd.gradcheck(both, (hidden, weight, bias))


def test_same_bits_whatever_the_threads_and_the_chunks(threads):
    hidden, weight, ids, _ = make_inputs((64, 16, 16387), {})
    results = []
    for count in (1, 2, 3, 2):
        threads(1)
        with torch.no_grad():
            logits = hidden @ weight.T
        threads(count)
        eye = torch.eye(64)
        out = linear_logprob(eye, logits.T.contiguous(), ids, backend="cpp")
        results.append(torch.stack([out.logprobs, out.entropy, out.self_certainty]).detach())
    for other in results[1:]:
        assert torch.equal(results[0], other)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"hidden": torch.zeros(3)}, ValueError, r"hidden: expected shape \(T, D\)"),
        ({"hidden": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "hidden: expected torch.float16"),
        ({"weight": torch.zeros(5, 3)}, ValueError, r"weight: expected shape \(V, 4\)"),
        ({"ids": torch.zeros(2, dtype=torch.int64)}, ValueError, r"ids: expected shape \(3,\)"),
        ({"ids": torch.tensor([0, 1, 5])}, ValueError, r"ids: expected values in \[0, 5\), got 0 to 5"),
        ({"ids": torch.tensor([0, 1, -100])}, ValueError, r"ids: expected values in \[0, 5\), got -100 to 1"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias: expected shape \(5,\)"),
        ({"temperature": 0.0}, ValueError, "temperature: expected > 0"),
        ({"temperature": torch.tensor([1.0, 0.0, 1.0])}, ValueError, "temperature: expected > 0"),
        ({"softcap": 0.0}, ValueError, "softcap: expected > 0 or None"),
        ({"chunk_rows": 0}, ValueError, "chunk_rows: expected >= 1"),
        ({"top_k": -1}, ValueError, "top_k: expected >= 0"),
        ({"top_p": 0.0}, ValueError, r"top_p: expected a number in \(0, 1\]"),
        ({"max_active_rows": 0}, ValueError, "max_active_rows: expected >= 1"),
        ({"backend": "cuda"}, ValueError, "backend: expected auto or one of"),
    ],
)
def test_refusals(change, error, words):
    given = {
        "hidden": torch.zeros(3, 4),
        "weight": torch.zeros(5, 4),
        "ids": torch.zeros(3, dtype=torch.int64),
    }
    with pytest.raises(error, match=rf"\[linear_logprob\] {words}"):
        linear_logprob(**given | change)


def test_a_named_backend_runs_or_raises():
    wide = torch.zeros(3, 4, dtype=torch.float64)
    with pytest.raises(
        RuntimeError, match=r"expected one of \['torch', 'reference'\], got 'cpp', which takes only bfloat16"
    ):
        linear_logprob(wide, torch.zeros(5, 4), torch.zeros(3, dtype=torch.int64), backend="cpp")
    out = linear_logprob(wide, torch.zeros(5, 4), torch.zeros(3, dtype=torch.int64))
    assert out.logprobs.dtype == torch.float64
