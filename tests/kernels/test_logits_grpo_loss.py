from __future__ import annotations

import math

import pytest
import torch
from backends import BACKENDS, FAST, thinned
from torch.library import opcheck

from fastrl.kernels._head import Scaling
from fastrl.kernels.logits_grpo_loss.library import logits_grpo_loss_op
from fastrl.ops import GroupRewards, LossConfig, group_advantage, linear_grpo_loss, logits_grpo_loss

CU = torch.tensor([0, 5, 5, 6, 14, 19], dtype=torch.int32)
T = 19
VARIANTS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo")


def make_inputs(vocab=257, dtype=torch.float32):
    logits = (torch.randn(T, vocab) * 3).to(dtype).requires_grad_()
    old = -torch.rand(T) * 6
    batch = {
        "cu_seqlens": CU,
        "advantages": torch.tensor([1.5, 1.0, -1.0, 0.0, -0.6]),
        "loss_mask": torch.rand(T) > 0.25,
        "old_logprobs": old,
        "ref_logprobs": old + torch.randn(T) * 0.4,
        "rollout_logprobs": old + torch.randn(T) * 0.2,
        "denominator": 6.5,
    }
    return logits, torch.randint(0, vocab, (T,)), batch


def through_a_head(logits, ids, batch, **options):
    """linear_grpo_loss, float64, with a head that is the identity: its oracle is its own tests'."""
    wide = logits.detach().double().requires_grad_()
    weight = torch.eye(logits.shape[1], dtype=torch.float64)
    batch = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.items()
    }
    out = linear_grpo_loss(wide, weight, ids, **batch, **options, backend="reference")
    return out, torch.autograd.grad(out.loss, wide)[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_variant(backend, loss_type, dtype, poisoned):
    options = [
        ("token_truncate", 0.0, {}),
        ("sequence_mask", 0.1, {"temperature": torch.rand(T) + 0.5, "softcap": 6.0, "logit_scale": 0.7}),
        ("none", 0.0, {"temperature": 0.7, "top_k": 30, "top_p": 0.9}),
    ]
    start = VARIANTS.index(loss_type) + (dtype == torch.bfloat16)
    for correction, entropy_coef, head in thinned(options, backend, start):
        logits, ids, batch = make_inputs(dtype=dtype)
        config = LossConfig(
            loss_type=loss_type, correction=correction, entropy_coef=entropy_coef, kl_coef=entropy_coef
        )
        want, wanted = through_a_head(logits, ids, batch, config=config, **head)
        out = logits_grpo_loss(logits, ids, **batch, config=config, **head, backend=backend)
        (found,) = torch.autograd.grad(out.loss * 2, logits)
        assert out.loss.item() == pytest.approx(want.loss.item(), rel=2e-5)
        assert found.dtype == dtype
        unit = 1e-5 if dtype == torch.float32 else 2**-8  # one rounding at the end
        assert (found.double() / 2 - wanted).norm() <= unit * wanted.norm()
        assert torch.equal(found[~out.computed], torch.zeros_like(found[~out.computed]))
        for name, value in want.stats.items():
            assert out.stats[name].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked(backend):
    # probabilities 1/4 and 3/4; on policy the gradient is -A (onehot - p) / 2
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], requires_grad=True)
    out = logits_grpo_loss(
        logits,
        torch.tensor([0, 1]),
        cu_seqlens=torch.tensor([0, 1, 2], dtype=torch.int32),
        advantages=torch.tensor([2.0, -1.0]),
        loss_mask=torch.ones(2, dtype=torch.bool),
        config=LossConfig(),
        denominator=2.0,
        backend=backend,
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-0.5)
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.75, 0.75], [-0.125, 0.125]]))


@pytest.mark.parametrize("backend", FAST)
def test_idle_rows_may_hold_anything(backend):
    logits, ids, batch = make_inputs()
    out = logits_grpo_loss(logits, ids, **batch, config=LossConfig(), backend=backend)
    (wanted,) = torch.autograd.grad(out.loss, logits)
    spoilt = logits.detach().clone()
    spoilt[~out.computed] = math.nan
    spoilt.requires_grad_()
    ids = torch.where(out.computed, ids, -100)
    again = logits_grpo_loss(spoilt, ids, **batch, config=LossConfig(), backend=backend)
    assert torch.equal(again.loss, out.loss)
    assert torch.equal(torch.autograd.grad(again.loss, spoilt)[0], wanted)


@pytest.mark.parametrize("backend", FAST)
def test_strided_rows_and_no_rows(backend):
    logits, ids, batch = make_inputs()
    apart = torch.full((T, 300), math.nan)
    apart[:, :257] = logits.detach()
    apart.requires_grad_()
    grads = []
    for leaf, view in ((logits, logits), (apart, apart[:, :257])):
        out = logits_grpo_loss(view, ids, **batch, config=LossConfig(), backend=backend)
        grads.append(torch.autograd.grad(out.loss, leaf)[0][:, :257])
    assert torch.equal(*grads)
    nothing = {"cu_seqlens": torch.zeros(1, dtype=torch.int32), "advantages": torch.zeros(0)}
    empty = {"loss_mask": torch.zeros(0, dtype=torch.bool), "denominator": 1.0}
    out = logits_grpo_loss(logits[:0], ids[:0], **nothing, **empty, config=LossConfig(), backend=backend)
    out.loss.backward()
    assert out.loss == 0


@pytest.mark.parametrize("loss_type", VARIANTS)
def test_gradcheck(loss_type):
    """Of the reference; the chunked torch pass, whose gradients are given away once, equals it in float64."""
    logits, ids, batch = make_inputs(vocab=7)
    wide = {n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in batch.items()}
    config = LossConfig(loss_type=loss_type, kl_coef=0.2, entropy_coef=0.1, kl_ratio=True)
    if loss_type in ("gspo", "cispo"):  # their ratio is not differentiated as the formula has it
        config = LossConfig(loss_type=loss_type, entropy_coef=0.1)
        wide["old_logprobs"] = None
    leaf = logits.detach().double().requires_grad_()

    def loss(logits, backend="reference"):
        return logits_grpo_loss(logits, ids, **wide, config=config, backend=backend).loss

    if loss_type not in ("gspo", "cispo"):
        assert torch.autograd.gradcheck(loss, leaf)
    grads = [torch.autograd.grad(loss(leaf, backend), leaf)[0] for backend in ("reference", "torch")]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-14)


def test_rewards_in_place_of_advantages():
    logits, ids, batch = make_inputs()
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.5, 0.5])
    groups = torch.tensor([0, 0, 0, 1, 1])
    made = group_advantage(rewards, groups, baseline="leave_one_out", scale="none")
    given = GroupRewards(rewards=rewards, group_ids=groups, baseline="leave_one_out", scale="none")
    losses = [
        logits_grpo_loss(logits, ids, **batch | {"advantages": each}, config=LossConfig()).loss
        for each in (made, given)
    ]
    assert torch.equal(*losses)


def test_operator():
    logits, ids, batch = make_inputs(vocab=11)
    optional = (batch["old_logprobs"], None, None)
    how = (Scaling(1.0, 1.0, None, 0, 1.0).encode(), LossConfig().encode(), 3.0, "cpp", True)
    opcheck(
        logits_grpo_loss_op,
        (logits, ids, None, CU, batch["advantages"], batch["loss_mask"], *optional, False, *how),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"logits": torch.zeros(T)}, ValueError, r"logits: expected shape \(T, V\)"),
        ({"logits": torch.zeros(T, 7, dtype=torch.int64)}, TypeError, "logits: expected torch.float16"),
        ({"ids": torch.full((T,), 257)}, ValueError, r"ids: expected values in \[0, 257\)"),
        ({"temperature": 0.0}, ValueError, "temperature: expected > 0"),
        ({"denominator": 0.0}, ValueError, "denominator: expected > 0"),
        ({"backend": "metal"}, ValueError, "backend: expected auto or one of"),
    ],
)
def test_refusals(change, error, words):
    logits, ids, batch = make_inputs()
    with pytest.raises(error, match=rf"\[logits_grpo_loss\] {words}"):
        logits_grpo_loss(**{"logits": logits, "ids": ids, "config": LossConfig()} | batch | change)
