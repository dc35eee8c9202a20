from __future__ import annotations

import itertools
import math

import pytest
import torch
from backends import BACKENDS
from grpo_oracle import oracle_loss

from fastrl.ops import LossConfig, grpo_loss

CU = torch.tensor([0, 4, 4, 5, 13], dtype=torch.int32)  # ragged, one empty, one of a single token
T = 13
VARIANTS = [
    {"loss_type": "grpo"},
    {"loss_type": "dr_grpo", "clip_eps_low": 0.1, "clip_eps_high": 0.3},
    {"loss_type": "dapo", "dual_clip": 1.3},
    {"loss_type": "bnpo", "clip_eps_high": 0.05},
    {"loss_type": "gspo", "clip_eps_low": 0.05, "clip_eps_high": 0.05},
    {"loss_type": "gspo", "clip_eps_low": 0.02, "dual_clip": 1.05},
    {"loss_type": "cispo", "clip_eps_high": 1.1},
    {"loss_type": "cispo", "cispo_bound": "around_one"},
    {"loss_type": "rloo"},
]
CORRECTIONS = ["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
TOLERANCE = {"rtol": 4e-6, "atol": 2e-6}


def make_inputs(num_tokens: int = T) -> dict[str, torch.Tensor]:
    logprobs = -torch.rand(num_tokens) * 3
    old = logprobs + torch.randn(num_tokens) * 0.3
    return {
        "logprobs": logprobs,
        "entropy": torch.rand(num_tokens),
        "old_logprobs": old,
        "ref_logprobs": logprobs + torch.randn(num_tokens) * 0.5,
        "rollout_logprobs": old + torch.randn(num_tokens) * 0.2,
        "loss_mask": torch.rand(num_tokens) > 0.2,
        "advantages": torch.tensor([1.5, -1.0, 0.7, -0.6]),
    }


def token_advantages(inputs, cu_seqlens=CU):
    return inputs["advantages"].repeat_interleave(cu_seqlens.diff().long())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_every_variant_against_the_oracle(backend, variant):
    options = [
        *itertools.product(CORRECTIONS, [True, False], ["k3"], [(0.2, 0.03)]),
        *itertools.product(["none"], [True, False], ["k1", "k2"], [(0.2, 0.0)]),
        ("none", True, "k3", (0.0, 0.0)),
    ]
    for correction, off_policy, estimator, (kl_coef, entropy_coef) in options:
        config = LossConfig(
            **variant,
            correction=correction,
            correction_cap=1.1,
            kl_estimator=estimator,
            kl_coef=kl_coef,
            entropy_coef=entropy_coef,
        )
        inputs = make_inputs()
        inputs["rollout_logprobs"][2] = math.nan
        if not off_policy:
            inputs["old_logprobs"] = None
        compare(inputs, config, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_times_ratio(backend, variant, estimator):
    config = LossConfig(**variant, kl_coef=0.3, kl_estimator=estimator, kl_ratio=True, correction="none")
    compare(make_inputs(), config, backend)
    compare(make_inputs() | {"old_logprobs": None}, config, backend)


def compare(inputs, config, backend):
    logprobs, entropy = (inputs[name].double().requires_grad_() for name in ("logprobs", "entropy"))
    optional = [inputs[name] for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs")]
    wide = [None if each is None else each.double() for each in optional]
    expected, counts = oracle_loss(
        logprobs,
        entropy,
        CU,
        token_advantages(inputs).double(),
        inputs["loss_mask"],
        *wide,
        config=config,
        denominator=7.5,
    )
    expected.backward()
    given = {name: inputs[name].clone() for name in ("logprobs", "entropy")}
    for each in given.values():
        each.requires_grad_()
    rest = {name: value for name, value in inputs.items() if name not in given}
    out = grpo_loss(**given, **rest, cu_seqlens=CU, config=config, denominator=7.5, backend=backend)
    (out.loss * 3).backward()
    tolerance = TOLERANCE
    torch.testing.assert_close(out.loss.double(), expected.detach(), **tolerance)
    torch.testing.assert_close(given["logprobs"].grad.double(), 3 * logprobs.grad, **tolerance)
    if config.entropy_coef:
        torch.testing.assert_close(given["entropy"].grad.double(), 3 * entropy.grad, **tolerance)
    stats = {name: value.item() for name, value in out.stats.items()}
    mask = inputs["loss_mask"]
    assert stats["num_tokens_sum"] == stats["computed_tokens_sum"] == mask.sum()
    assert (stats["clip_low_sum"], stats["clip_high_sum"]) == (counts["clip_low"], counts["clip_high"])
    assert stats["kl_sum"] == pytest.approx(counts["kl"], abs=1e-5)
    assert stats["entropy_sum"] == pytest.approx(inputs["entropy"][mask].sum().item(), abs=1e-5)
    if counts["weights"]:
        assert stats["correction_count_sum"] == pytest.approx(len(counts["weights"]))
        assert stats["correction_sum"] == pytest.approx(sum(counts["weights"]), abs=1e-5)
        assert stats["correction_min"] == pytest.approx(min(counts["weights"]), abs=1e-6)
        assert stats["correction_max"] == pytest.approx(max(counts["weights"]), abs=1e-6)
    else:
        assert "correction_sum" not in stats


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked(backend):
    # ratios 1/2, 2, 1.1 against [0.8, 1.2]: clipped below (A < 0), clipped above (A > 0), inside
    old = torch.tensor([0.5, 0.25, 0.5]).log()
    logprobs = torch.tensor([0.25, 0.5, 0.55]).log().requires_grad_()
    out = grpo_loss(
        logprobs,
        cu_seqlens=torch.tensor([0, 1, 3], dtype=torch.int32),
        advantages=torch.tensor([-1.0, 2.0]),
        loss_mask=torch.ones(3, dtype=torch.bool),
        old_logprobs=old,
        config=LossConfig(loss_type="dapo"),
        denominator=3.0,
        backend=backend,
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx((0.8 - 2.4 - 2.2) / 3)
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 0.0, -2.2 / 3]))
    assert out.stats["clip_low_sum"] == 1
    assert out.stats["clip_high_sum"] == 1
    assert out.stats["ratio_max"].item() == pytest.approx(2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_policy_gradient_is_the_advantage(backend):
    """With old = current, the clipped losses, gspo, cispo and rloo all have the gradient of REINFORCE."""
    for loss_type in ("dr_grpo", "dapo", "bnpo", "cispo", "rloo"):
        inputs = make_inputs()
        leaf = inputs["logprobs"].requires_grad_()
        out = grpo_loss(
            leaf,
            cu_seqlens=CU,
            advantages=inputs["advantages"],
            loss_mask=inputs["loss_mask"],
            config=LossConfig(loss_type=loss_type),
            denominator=1.0,
            backend=backend,
        )
        out.loss.backward()
        torch.testing.assert_close(leaf.grad, -token_advantages(inputs) * inputs["loss_mask"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_advantages_a_token(backend):
    inputs = make_inputs()
    config = LossConfig(loss_type="gspo")
    losses = [
        grpo_loss(
            **inputs | {"advantages": each}, cu_seqlens=CU, config=config, denominator=2.0, backend=backend
        ).loss
        for each in (inputs["advantages"], token_advantages(inputs))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_length_that_fits_both_is_a_sequence_each(backend):
    out = grpo_loss(
        torch.tensor([-1.0, -3.0]),
        cu_seqlens=torch.tensor([0, 0, 2], dtype=torch.int32),
        advantages=torch.tensor([5.0, 1.0]),
        loss_mask=torch.ones(2, dtype=torch.bool),
        config=LossConfig(loss_type="rloo"),
        denominator=1.0,
        backend=backend,
    )
    assert out.loss.item() == 4.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", ["grpo", "gspo", "dapo"])
@pytest.mark.parametrize("correction", ["token_truncate", "sequence_mask"])
def test_nothing_to_train(backend, loss_type, correction):
    for num_tokens, cu_seqlens in ((0, [0]), (0, [0, 0]), (5, [0, 2, 5])):
        inputs = make_inputs(num_tokens) | {"advantages": torch.ones(len(cu_seqlens) - 1)}
        leaf = inputs["logprobs"].requires_grad_()
        out = grpo_loss(
            **inputs | {"loss_mask": torch.zeros(num_tokens, dtype=torch.bool)},
            cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32),
            config=LossConfig(loss_type=loss_type, correction=correction),
            denominator=1.0,
            backend=backend,
        )
        out.loss.backward()
        assert out.loss == 0
        assert torch.equal(leaf.grad, torch.zeros(num_tokens))
        assert out.stats["num_tokens_sum"] == 0
        assert out.stats["ratio_min"] == math.inf
        assert out.stats["ratio_max"] == -math.inf


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_tokens_may_hold_anything(backend, poisoned):
    inputs = make_inputs()
    config = LossConfig(loss_type="gspo", correction="sequence_truncate", kl_coef=0.1, entropy_coef=0.1)
    results = []
    for filler in (0.0, math.nan):
        for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs", "entropy", "logprobs"):
            inputs[name] = inputs[name].detach().masked_fill(~inputs["loss_mask"], filler)
        leaf = inputs["logprobs"].requires_grad_()
        out = grpo_loss(**inputs, cu_seqlens=CU, config=config, denominator=3.0, backend=backend)
        out.loss.backward()
        results.append((out.loss.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_apart_policies_stay_finite(backend):
    """Log-ratios of 100 are held to 20, where the gradient ends."""
    leaf = torch.tensor([-120.0, -1.0]).requires_grad_()
    out = grpo_loss(
        leaf,
        cu_seqlens=torch.tensor([0, 2], dtype=torch.int32),
        advantages=torch.tensor([-1.0]),
        loss_mask=torch.ones(2, dtype=torch.bool),
        old_logprobs=torch.tensor([-1.0, -120.0]),
        ref_logprobs=torch.tensor([-1.0, -1.0]),
        config=LossConfig(loss_type="dapo", kl_coef=1.0),
        denominator=1.0,
        backend=backend,
    )
    out.loss.backward()
    expected = 0.8 + math.exp(20) + (math.exp(20) - 20 - 1)
    assert out.loss.item() == pytest.approx(expected, rel=1e-6)
    assert leaf.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("loss_type", ["grpo", "gspo", "dapo", "rloo"])
def test_uneven_micro_batches_give_the_single_batch_gradient(loss_type):
    inputs = make_inputs()
    config = LossConfig(loss_type=loss_type, correction="sequence_truncate")
    denominator = config.denominator(int(inputs["loss_mask"].sum()), 4, 8)
    leaf = inputs["logprobs"].clone().requires_grad_()
    whole = grpo_loss(**inputs | {"logprobs": leaf}, cu_seqlens=CU, config=config, denominator=denominator)
    whole.loss.backward()
    parts = inputs["logprobs"].clone().requires_grad_()
    total = 0.0
    for first, last in ((0, 1), (1, 4)):
        begin, end = int(CU[first]), int(CU[last])
        cut = {name: value[begin:end] for name, value in inputs.items() if name != "advantages"}
        out = grpo_loss(
            **cut | {"logprobs": parts[begin:end]},
            advantages=inputs["advantages"][first:last],
            cu_seqlens=CU[first : last + 1] - begin,
            config=config,
            denominator=denominator,
        )
        out.loss.backward()
        total += out.loss.item()
    assert total == pytest.approx(whole.loss.item(), rel=1e-6)
    assert torch.equal(parts.grad, leaf.grad)


def test_gradcheck_of_the_reference():
    inputs = {
        name: value.double() if value.is_floating_point() else value for name, value in make_inputs().items()
    }
    config = LossConfig(loss_type="dapo", kl_coef=0.1, entropy_coef=0.1)

    def loss(logprobs, entropy):
        rest = inputs | {"logprobs": logprobs, "entropy": entropy}
        return grpo_loss(**rest, cu_seqlens=CU, config=config, denominator=2.0, backend="reference").loss

    leaves = [inputs[name].clone().requires_grad_() for name in ("logprobs", "entropy")]
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-7)


def test_same_bits_whatever_the_threads(threads):
    lengths = torch.randint(1, 900, (80,))
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(torch.int32)
    inputs = make_inputs(int(lengths.sum())) | {"advantages": torch.randn(80)}
    config = LossConfig(loss_type="gspo", correction="sequence_truncate")
    results = []
    for count in (1, 2, 3, 2):
        threads(count)
        leaf = inputs["logprobs"].detach().clone().requires_grad_()
        out = grpo_loss(
            **inputs | {"logprobs": leaf},
            cu_seqlens=cu_seqlens,
            config=config,
            denominator=9.0,
            backend="cpp",
        )
        out.loss.backward()
        results.append((out.loss.detach(), leaf.grad, torch.stack(list(out.stats.values()))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"logprobs": torch.zeros(13, 1)}, ValueError, r"logprobs: expected shape \(T,\)"),
        ({"logprobs": torch.zeros(13, dtype=torch.int64)}, TypeError, "logprobs: expected torch.float16"),
        ({"loss_mask": torch.ones(13)}, TypeError, "loss_mask: expected torch.bool"),
        ({"loss_mask": torch.ones(12, dtype=torch.bool)}, ValueError, r"loss_mask: expected shape \(13,\)"),
        (
            {"advantages": torch.ones(5)},
            ValueError,
            r"advantages: expected shape \(4,\), one per sequence, or \(13,\)",
        ),
        ({"old_logprobs": torch.ones(5)}, ValueError, r"old_logprobs: expected shape \(13,\)"),
        ({"cu_seqlens": CU.long()}, TypeError, "cu_seqlens: expected torch.int32"),
        ({"cu_seqlens": CU[[0, 1, 2, 3, 3]]}, ValueError, "cu_seqlens: expected to run from 0 to 13"),
        ({"cu_seqlens": CU[[0, 2, 1, 3, 4]] - 0}, None, ""),
        (
            {"cu_seqlens": torch.tensor([0, 9, 4, 5, 13], dtype=torch.int32)},
            ValueError,
            "cu_seqlens: expected values",
        ),
        ({"denominator": 0.0}, ValueError, "denominator: expected > 0"),
        (
            {"config": LossConfig(kl_coef=0.1), "ref_logprobs": None},
            ValueError,
            "ref_logprobs: expected a tensor",
        ),
        ({"config": LossConfig(entropy_coef=0.1), "entropy": None}, ValueError, "entropy: expected a tensor"),
        ({"backend": "metal"}, ValueError, "backend: expected auto or one of"),
    ],
)
def test_refusals(change, error, words):
    arguments = make_inputs() | {"cu_seqlens": CU, "config": LossConfig(), "denominator": 1.0} | change
    if error is None:  # two sequences of the same bounds change nothing
        grpo_loss(**arguments)
        return
    with pytest.raises(error, match=rf"\[grpo_loss\] {words}"):
        grpo_loss(**arguments)


def test_config_refusals():
    with pytest.raises(ValueError, match=r"\[loss\] clip_eps_high: expected >= 1"):
        LossConfig(loss_type="cispo", clip_eps_high=0.2)
    assert LossConfig(loss_type="cispo").eps_high == 5.0
    assert LossConfig(loss_type="cispo", cispo_bound="around_one").eps_high == 0.2
