"""Triton's token math against float64; without a GPU in Triton's interpreter."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from grpo_oracle import oracle_loss

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import STATS, Selection, TokenGrads, TokenScores
from fastrl.kernels.config import LossConfig
from fastrl.kernels.grpo_loss.torch_tokens import TorchTokens

triton = pytest.importorskip("triton", reason="triton is not installed")
if not torch.cuda.is_available() and isinstance(triton.language.sum, triton.JITFunction):
    pytest.skip("no GPU, nor TRITON_INTERPRET=1 when triton was imported", allow_module_level=True)

from fastrl.kernels.grpo_loss import triton_tokens  # noqa: E402
from fastrl.kernels.grpo_loss.triton_tokens import TritonTokens  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CU = (0, 4, 4, 5, 24, 40)  # ragged, one empty, one of a single token
VARIANTS = [
    {"loss_type": "grpo"},
    {"loss_type": "dr_grpo", "clip_eps_low": 0.1, "clip_eps_high": 0.3},
    {"loss_type": "dapo", "dual_clip": 1.3},
    {"loss_type": "bnpo", "clip_eps_high": 0.05},
    {"loss_type": "gspo", "clip_eps_low": 0.05, "clip_eps_high": 0.05, "dual_clip": 1.05},
    {"loss_type": "cispo", "clip_eps_high": 1.1},
    {"loss_type": "cispo", "cispo_bound": "around_one"},
    {"loss_type": "rloo"},
]
CORRECTIONS = ["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
PRESENT = [
    # correction, old, rollout, KL estimator, (kl_coef, entropy_coef)
    *itertools.product(CORRECTIONS, [True], [True], ["k3"], [(0.2, 0.03)]),
    *itertools.product(["token_mask", "sequence_truncate"], [False], [True], ["k1"], [(0.2, 0.0)]),
    *itertools.product(["none"], [True, False], [False], ["k2"], [(0.2, 0.03)]),
    ("none", True, True, "k3", (0.0, 0.0)),
]


def make(config: LossConfig, cu=CU, old=True, ref=True, rollout=True, per_token=False):
    """(batch, scores) of random tokens."""
    count, sequences = cu[-1], len(cu) - 1
    logprobs = -3 * torch.rand(count, device=DEVICE)
    before = logprobs + 0.3 * torch.randn(count, device=DEVICE)
    sampled = before + 0.2 * torch.randn(count, device=DEVICE)
    sampled[::7] = math.nan
    batch = LossBatch(
        cu_seqlens=torch.tensor(cu, dtype=torch.int32, device=DEVICE),
        advantages=torch.randn(count if per_token else sequences, device=DEVICE),
        advantages_per_token=per_token,
        loss_mask=torch.rand(count, device=DEVICE) > 0.2,
        old_logprobs=before if old else None,
        ref_logprobs=logprobs + 0.5 * torch.randn(count, device=DEVICE) if ref else None,
        rollout_logprobs=sampled if rollout else None,
        config=config,
        denominator=7.0,
    )
    entropy, certainty = torch.rand(2, count, device=DEVICE)
    return batch, TokenScores(None, logprobs, entropy, certainty, torch.rand(count, device=DEVICE) > 0.5)


def oracle_slopes(batch: LossBatch, scores: TokenScores, computed: torch.Tensor):
    """(loss, d loss / d logprobs, d loss / d entropy, counts)."""

    def double(tensor):
        return None if tensor is None else tensor.double().cpu()

    logprobs, entropy = (double(x).requires_grad_() for x in (scores.logprobs, scores.entropy))
    lengths = batch.cu_seqlens.diff().long().cpu()
    advantages = double(batch.advantages)
    if not batch.advantages_per_token:
        advantages = advantages.repeat_interleave(lengths)
    others = map(double, (batch.old_logprobs, batch.ref_logprobs, batch.rollout_logprobs))
    loss, counts = oracle_loss(
        logprobs, entropy, batch.cu_seqlens, advantages, computed, *others,
        config=batch.config, denominator=batch.denominator,
    )  # fmt: skip
    if not loss.requires_grad:
        return loss, torch.zeros_like(logprobs), torch.zeros_like(logprobs), counts
    grads = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True, materialize_grads=True)
    return loss, *grads, counts


def stat(grads: TokenGrads, name: str) -> float:
    return grads.stats[STATS.index(name)].item()


def assert_same(ours: TokenGrads, expected: TokenGrads) -> None:
    assert (ours.grad_entropy is None) == (expected.grad_entropy is None)
    for name in ("grad_logprobs", "grad_entropy"):
        if getattr(ours, name) is not None:
            pair = (getattr(each, name).double() for each in (ours, expected))
            torch.testing.assert_close(*pair, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(ours.stats, expected.stats, rtol=1e-6, atol=1e-6)


def in_double(batch: LossBatch, scores: TokenScores) -> tuple[LossBatch, TokenScores]:
    """The same numbers in float64."""

    def widen(item):
        names = [field.name for field in dataclasses.fields(item)]
        tensors = {name: getattr(item, name) for name in names}
        floats = {n: t for n, t in tensors.items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
        return dataclasses.replace(item, **{name: tensor.double() for name, tensor in floats.items()})

    return widen(batch), widen(scores)


@pytest.mark.parametrize("present", PRESENT, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_every_variant(variant, present, poisoned, monkeypatch):
    monkeypatch.setattr(triton_tokens, "BLOCK", 16)  # several blocks, the last one part full
    correction, old, rollout, estimator, (kl_coef, entropy_coef) = present
    config = LossConfig(
        **variant, correction=correction, correction_cap=1.1,
        kl_estimator=estimator, kl_coef=kl_coef, entropy_coef=entropy_coef,
    )  # fmt: skip
    batch, scores = make(config, old=old, rollout=rollout)
    selection = TritonTokens().select(batch, leave_out=False)
    grads = TritonTokens().grads(batch, selection, scores)
    loss, by_logprob, by_entropy, counts = oracle_slopes(batch, scores, batch.loss_mask)
    torch.testing.assert_close(grads.grad_logprobs.cpu().double(), by_logprob, rtol=2e-6, atol=1e-7)
    if entropy_coef:
        torch.testing.assert_close(grads.grad_entropy.cpu().double(), by_entropy, rtol=2e-6, atol=1e-7)
    assert (grads.grad_entropy is None) == (entropy_coef == 0)
    assert stat(grads, "loss") == pytest.approx(loss.item(), rel=1e-6, abs=1e-7)
    assert stat(grads, "clip_low_sum") == counts["clip_low"]
    assert stat(grads, "clip_high_sum") == counts["clip_high"]
    assert stat(grads, "kl_sum") == pytest.approx(counts["kl"], rel=1e-6)
    if counts["weights"]:
        assert stat(grads, "correction_sum") == pytest.approx(sum(counts["weights"]), rel=1e-6)
        assert stat(grads, "correction_count_sum") == pytest.approx(len(counts["weights"]))
        assert stat(grads, "correction_min") == pytest.approx(min(counts["weights"]), rel=1e-6)
    wide = TorchTokens().grads(*in_double(batch, scores)[:1], selection, in_double(batch, scores)[1])
    assert_same(grads, wide)


@pytest.mark.parametrize("correction", ["none", "token_mask", "sequence_mask"])
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "gspo"])
@pytest.mark.parametrize("padding", [0, 5])
def test_rows(loss_type, correction, padding, poisoned, monkeypatch):
    """Computed tokens alone, then places that count for nothing, whatever stands there."""
    monkeypatch.setattr(triton_tokens, "BLOCK", 16)
    config = LossConfig(loss_type=loss_type, correction=correction, kl_coef=0.1, entropy_coef=0.1)
    batch, scores = make(config)
    selection = TritonTokens().select(batch, leave_out=True)
    full = TritonTokens().grads(batch, selection, scores)
    rows = selection.computed.nonzero()[:, 0]
    filled = torch.full((padding,), CU[-1], device=DEVICE)

    def part(values):
        rest = torch.full((padding,), math.nan, device=DEVICE).to(values.dtype)
        return torch.cat([values[rows], rest])

    some = TokenScores(
        torch.cat([rows, filled]),
        *(part(getattr(scores, name)) for name in ("logprobs", "entropy", "self_certainty", "top1")),
    )
    grads = TritonTokens().grads(batch, selection, some)
    for name in ("grad_logprobs", "grad_entropy"):
        whole = getattr(full, name)
        assert torch.equal(getattr(grads, name), torch.cat([whole[rows], whole.new_zeros(padding)]))
    torch.testing.assert_close(grads.stats, full.stats, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["logprobs", "old_logprobs", "ref_logprobs", "rollout_logprobs"])
@pytest.mark.parametrize("loss_type", ["dapo", "gspo"])
def test_tokens_that_are_not_computed_may_hold_nan(name, loss_type):
    batch, scores = make(LossConfig(loss_type=loss_type, correction="sequence_truncate", kl_coef=0.1))
    selection = TritonTokens().select(batch, leave_out=False)
    expected = TritonTokens().grads(batch, selection, scores)
    owner = scores if name == "logprobs" else batch
    getattr(owner, name)[~batch.loss_mask] = math.nan
    grads = TritonTokens().grads(batch, selection, scores)
    assert torch.equal(grads.grad_logprobs, expected.grad_logprobs)
    assert torch.equal(grads.stats, expected.stats)


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        LossConfig(loss_type="dapo", correction="token_mask"),
        LossConfig(loss_type="gspo"),
        LossConfig(loss_type="grpo", correction="sequence_mask"),
        LossConfig(kl_coef=0.1),
    ],
    ids=lambda config: f"{config.loss_type}-{config.correction}-{config.kl_coef}",
)
def test_select(config, per_token, leave_out, poisoned, monkeypatch):
    monkeypatch.setattr(triton_tokens, "BLOCK", 16)
    batch, _ = make(config, per_token=per_token)
    idle = slice(5, 24) if per_token else slice(3, 4)
    batch.advantages[idle] = 0
    batch.advantages[-1 if not per_token else 30] = 0
    selection = TritonTokens().select(batch, leave_out)
    bounds = list(itertools.pairwise(CU))
    assert selection.lengths.tolist() == [batch.loss_mask[a:b].sum().item() for a, b in bounds]
    expected = batch.loss_mask.clone()
    if leave_out and batch.skips_zero_advantage:
        for sequence, (a, b) in enumerate(bounds):
            moves = batch.advantages[a:b] != 0 if per_token else batch.advantages[sequence] != 0
            moves = batch.loss_mask[a:b] & moves
            expected[a:b] &= moves.any() if batch.needs_whole_sequences else moves
    assert torch.equal(selection.computed, expected)


@pytest.mark.parametrize("loss_type", ["dapo", "gspo"])
@pytest.mark.parametrize("cu", [(0,), (0, 0), (0, 0, 5, 5)], ids=str)
def test_nothing_to_compute(loss_type, cu, poisoned):
    batch, scores = make(LossConfig(loss_type=loss_type, correction="sequence_mask"), cu=cu)
    batch.loss_mask[:] = False
    selection = TritonTokens().select(batch, leave_out=True)
    grads = TritonTokens().grads(batch, selection, scores)
    assert not selection.computed.any() and selection.lengths.eq(0).all()
    assert grads.grad_logprobs.tolist() == [0.0] * cu[-1] and grads.grad_entropy is None
    for name, value in zip(STATS, grads.stats.tolist(), strict=True):
        assert value == {"min": math.inf, "max": -math.inf}.get(name[-3:], 0.0), name


def test_per_token_advantages_and_half_precision():
    config = LossConfig(loss_type="grpo", kl_coef=0.1)
    batch, scores = make(config, per_token=True)
    batch = dataclasses.replace(
        batch, advantages=batch.advantages.bfloat16(), old_logprobs=batch.old_logprobs.half(),
        ref_logprobs=batch.ref_logprobs.bfloat16(), rollout_logprobs=batch.rollout_logprobs.double(),
    )  # fmt: skip
    selection = TritonTokens().select(batch, leave_out=False)
    grads = TritonTokens().grads(batch, selection, scores)
    loss, by_logprob, _, _ = oracle_slopes(batch, scores, batch.loss_mask)
    torch.testing.assert_close(grads.grad_logprobs.cpu().double(), by_logprob, rtol=2e-6, atol=1e-7)
    assert stat(grads, "loss") == pytest.approx(loss.item(), rel=1e-6)


@pytest.mark.parametrize("loss_type", ["dapo", "gspo", "cispo", "rloo"])
def test_far_ratios_are_held(loss_type):
    batch, scores = make(LossConfig(loss_type=loss_type, kl_coef=0.1, correction="sequence_truncate"))
    scores.logprobs.sub_(200)
    batch.ref_logprobs[::2] += 100
    selection = TritonTokens().select(batch, leave_out=False)
    grads = TritonTokens().grads(batch, selection, scores)
    wide = TorchTokens().grads(*in_double(batch, scores)[:1], selection, in_double(batch, scores)[1])
    assert grads.grad_logprobs.isfinite().all()
    assert stat(grads, "ratio_min") == pytest.approx(math.exp(-20))
    assert_same(grads, wide)


def test_small_kl_keeps_its_digits():
    config = LossConfig(kl_coef=1.0)
    one, nothing = torch.ones(1, device=DEVICE), torch.zeros(1, device=DEVICE)
    cu_seqlens = torch.tensor([0, 1], dtype=torch.int32, device=DEVICE)
    mask = torch.ones(1, dtype=torch.bool, device=DEVICE)
    batch = LossBatch(cu_seqlens, nothing, False, mask, None, 1e-5 * one, None, config, 1.0)
    lengths = torch.ones(1, dtype=torch.int32, device=DEVICE)
    grads = TritonTokens().grads(
        batch, Selection(mask, lengths), TokenScores(None, nothing, None, None, None)
    )
    gap = batch.ref_logprobs.double().item()
    assert stat(grads, "kl_sum") == pytest.approx(gap**2 / 2 + gap**3 / 6, rel=1e-9)
    assert grads.grad_logprobs.item() == pytest.approx(-math.expm1(gap), rel=1e-6)


def test_same_bits_twice():
    batch, scores = make(LossConfig(loss_type="gspo", correction="sequence_mask"), cu=(0, 1100, 2100))
    selection = TritonTokens().select(batch, leave_out=False)
    first, second = (TritonTokens().grads(batch, selection, scores) for _ in range(2))
    assert torch.equal(first.grad_logprobs, second.grad_logprobs) and torch.equal(first.stats, second.stats)
    wide = TorchTokens().grads(*in_double(batch, scores)[:1], selection, in_double(batch, scores)[1])
    assert_same(first, wide)
