"""Results of the public ops on a GPU; cases that need none run on the CPU backends too."""

from __future__ import annotations

import itertools

import pytest
import torch
from gpu_cases import (
    DTYPES,
    ROWS,
    TOKENS,
    UNITS,
    assert_near,
    batch_of,
    exact_head,
    exactly,
    head_inputs,
    loss_batch,
    with_gradients,
)
from torch import Tensor

from fastrl.ops import LossConfig, group_advantage, grpo_loss, linear_grpo_loss, linear_logprob

LOSSES = [
    *({"loss_type": name} for name in ("grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo")),
    {"loss_type": "cispo", "cispo_bound": "around_one"},
]
CORRECTIONS = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
KLS = ({}, *({"kl_estimator": name, "kl_coef": 0.1} for name in ("k1", "k2", "k3")))


@pytest.mark.parametrize("device, backend", TOKENS)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(loss.values()))
def test_grpo_loss(device, backend, loss):
    # Triton compiles each: there every third, so that the KL estimators take turns
    every = list(itertools.product(CORRECTIONS, KLS))
    for correction, kl in every[LOSSES.index(loss) % 4 :: 3] if backend == "triton" else every:
        config = LossConfig(**loss, **kl, correction=correction, correction_cap=1.1)
        for dtype in DTYPES:
            compare_tokens(-3 * torch.rand(1700), dtype, config, device, backend)


def compare_tokens(logprobs: Tensor, dtype: torch.dtype, config: LossConfig, device: str, backend: str):
    given = logprobs.to(device, dtype).requires_grad_()
    exact = given.detach().cpu().double().requires_grad_()
    batch = batch_of(given, device)
    how = {"config": config, "denominator": 9.0}
    out = grpo_loss(given, **batch, **how, backend=backend)
    advantages = batch["advantages"].cpu().double().requires_grad_()
    given_exactly = exactly(batch) | {"advantages": advantages}
    wanted = grpo_loss(exact, **given_exactly, **how, backend="reference")
    want, by_advantage = torch.autograd.grad(wanted.loss, (exact, advantages))
    size = size_of_terms(wanted.loss.detach(), advantages.detach() * by_advantage)
    error = (out.loss.detach().cpu().double() - wanted.loss.detach()).abs()
    assert error <= rounding_of(config, batch) * size
    found = torch.autograd.grad(out.loss, given)[0]
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(found.cpu().double(), want, rtol=max(1e-5, rounding), atol=1e-6)
    assert out.stats.keys() == wanted.stats.keys()
    for name, value in wanted.stats.items():
        assert out.stats[name].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-4), name


def rounding_of(config: LossConfig, batch: dict[str, Tensor]) -> float:
    """Relative error of a float32 term and of the sum: six roundings and one per level of blocks.

    A sequence's weight is the exponential of a sum, where those of all tokens add up like a random walk.
    """
    sequences = config.loss_type == "gspo" or config.corrects_sequences
    walk = len(batch["loss_mask"]) ** 0.5 if sequences else 0
    return (16 + walk) * torch.finfo(torch.float32).eps


def size_of_terms(loss: Tensor, shares: Tensor) -> Tensor:
    """Sum of the absolute values that cancel in the loss, to which its rounding is in proportion.

    shares: the sequences' policy terms. Within a sequence they have the sign of one advantage.
    """
    return shares.abs().sum() + (loss - shares.sum()).abs()


@pytest.mark.parametrize("device, backend", TOKENS)
@pytest.mark.parametrize("count", [0, 1, 1025, 1700])
def test_numbers_of_tokens(device, backend, count):
    config = LossConfig(loss_type="gspo", correction="sequence_truncate", kl_coef=0.1)
    compare_tokens(-3 * torch.rand(count), torch.float32, config, device, backend)


@pytest.mark.parametrize("device, backend", TOKENS)
def test_strided_tokens_and_the_same_bits(device, backend):
    logprobs = -torch.rand(1700, device=device)
    values = batch_of(logprobs, device) | {"logprobs": logprobs}
    apart = {name: torch.stack([each, each], 1)[:, 0] for name, each in values.items()}
    config = LossConfig(loss_type="gspo", correction="sequence_mask", kl_coef=0.1)
    found = []
    for given in (values, apart):
        given["logprobs"].requires_grad_()
        out = grpo_loss(**given, config=config, denominator=3.0, backend=backend)
        grads = torch.autograd.grad(out.loss, given["logprobs"])
        found.append([out.loss.detach(), *grads, *out.stats.values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("device, backend", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count, vocab", [(0, 11), (1, 11), (1700, 11), (37, 32003), (3, 151936)])
def test_head_shapes(device, backend, dtype, count, vocab):
    inputs = head_inputs(count, 40, vocab, dtype, device)
    exact = exact_head(inputs)
    out, found = with_gradients(linear_logprob, inputs, softcap=20.0, backend=backend)
    want, wanted = with_gradients(linear_logprob, exact, softcap=20.0, backend="reference")
    for name in ("logprobs", "entropy", "self_certainty"):
        value, expected = getattr(out, name).detach().cpu().double(), getattr(want, name).detach()
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=2e-5)
    assert_near(found, wanted, UNITS[dtype])
    batch, how = loss_batch(inputs), {"config": LossConfig(), "denominator": 5.0}
    out, found = with_gradients(linear_grpo_loss, inputs, **batch, **how, backend=backend)
    want, wanted = with_gradients(linear_grpo_loss, exact, **exactly(batch), **how, backend="reference")
    torch.testing.assert_close(out.loss.cpu().double(), want.loss, rtol=1e-4, atol=1e-6)
    assert_near(found, wanted, UNITS[dtype])


@pytest.mark.parametrize("device, backend", ROWS)
@pytest.mark.parametrize(
    "loss", [{"loss_type": "dapo"}, {"loss_type": "gspo", "correction": "sequence_mask"}]
)
@pytest.mark.parametrize(
    "options",
    [
        {"chunk_rows": 8},
        {"recompute": True},
        {"batch_invariant": True},
        {"max_active_rows": 61},
        {"skip_share": 1e-3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_ways_to_the_same_loss(device, backend, loss, options):
    inputs = head_inputs(61, 48, 1003, torch.float32, device)
    batch, how = loss_batch(inputs), {"config": LossConfig(**loss, kl_coef=0.1), "denominator": 5.0}
    out, found = with_gradients(linear_grpo_loss, inputs, **batch, **how, **options, backend=backend)
    wanted = with_gradients(
        linear_grpo_loss, exact_head(inputs), **exactly(batch), **how, backend="reference"
    )[1]
    for name, value, want in zip(("hidden", "weight"), found, wanted, strict=True):
        left_out = out.stats.get(f"grad_{name}_error_sum", torch.zeros(())).item()
        assert (value.cpu().double() - want).norm() <= left_out + 1e-5 * want.norm()


@pytest.mark.parametrize("device, backend", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_repeat(device, backend, dtype):
    inputs = head_inputs(300, 64, 4001, dtype, device)
    batch = loss_batch(inputs)
    how = {"config": LossConfig(loss_type="gspo", kl_coef=0.1), "denominator": 5.0, "backend": backend}
    runs = [with_gradients(linear_grpo_loss, inputs, **batch, **how) for _ in range(2)]
    first, second = ([out.loss.detach(), out.logprobs, *out.stats.values(), *grads] for out, grads in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device, backend", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_its_bits_in_any_batch(device, backend, dtype):
    hidden, weight, ids = head_inputs(300, 64, 4001, dtype, device)
    how = {"batch_invariant": True, "backend": backend}
    together = linear_logprob(hidden, weight, ids, **how)
    batch = loss_batch((hidden, weight, ids)) | {"advantages": torch.ones(300, device=device)}
    how |= {"config": LossConfig(), "denominator": 5.0}
    out, (grad_hidden, _) = with_gradients(linear_grpo_loss, (hidden, weight, ids), **batch, **how)
    for row in (0, 131, 299):
        one = slice(row, row + 1)
        alone = linear_logprob(hidden[one], weight, ids[one], batch_invariant=True, backend=backend)
        assert torch.equal(alone.logprobs, together.logprobs[one])
        part = {name: values[one] for name, values in batch.items()}
        part["cu_seqlens"] = torch.tensor([0, 1], dtype=torch.int32, device=device)
        mine = (hidden[one].detach().requires_grad_(), weight, ids[one])
        out_alone, (grad_alone, _) = with_gradients(linear_grpo_loss, mine, **part, **how)
        assert torch.equal(out_alone.logprobs, out.logprobs[one]) and torch.equal(
            grad_alone, grad_hidden[one]
        )


@pytest.mark.parametrize("device, backend", ROWS)
def test_a_compiled_caller_is_one_graph(device, backend):
    inputs = head_inputs(61, 48, 1003, torch.float32, device)
    batch, how = (
        loss_batch(inputs),
        {"config": LossConfig(kl_coef=0.1), "denominator": 5.0, "backend": backend},
    )

    def caller(hidden, weight):
        out = linear_grpo_loss(2 * hidden, weight, inputs[2], **batch, **how)
        scores = linear_logprob(2 * hidden, weight, inputs[2], backend=backend)
        again = grpo_loss(scores.logprobs, **batch, **{**how, "backend": "auto"})
        return out.loss + again.loss, out.stats["ratio_sum"]

    compiled = torch.compile(caller, fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    (found, ratio), (want, want_ratio) = compiled(*inputs[:2]), caller(*inputs[:2])
    torch.testing.assert_close((found, ratio), (want, want_ratio), rtol=1e-5, atol=1e-6)
    assert_near(torch.autograd.grad(found, inputs[:2]), [
        each.cpu().double() for each in torch.autograd.grad(want, inputs[:2])
    ], 1e-5)  # fmt: skip


@pytest.mark.parametrize("device, backend", TOKENS)
def test_every_op_once(device, backend):
    """Small, forward and backward: what a memory checker watches."""
    if backend in ("cpp", "triton"):
        group_advantage(torch.rand(24, device=device), torch.arange(24, device=device) % 5, backend=backend)
    rows = "triton" if backend == "cuda" else backend
    for dtype in DTYPES:
        inputs = head_inputs(137, 48, 1003, dtype, device)
        with_gradients(linear_logprob, inputs, top_k=50, top_p=0.9, softcap=20.0, backend=rows)
        batch = loss_batch(inputs)
        how = {"config": LossConfig(loss_type="gspo", kl_coef=0.1), "denominator": 5.0}
        for options in ({}, {"recompute": True}, {"skip_share": 1e-3}, {"max_active_rows": 137}):
            with_gradients(linear_grpo_loss, inputs, **batch, **how, **options, backend=rows)
        logprobs = batch["old_logprobs"].clone().requires_grad_()
        grpo_loss(logprobs, **batch, **how, backend=backend).loss.backward()
    if device == "cuda":
        torch.cuda.synchronize()
