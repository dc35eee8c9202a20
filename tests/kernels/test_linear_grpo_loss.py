from __future__ import annotations

import itertools
import math

import pytest
import torch
from backends import BACKENDS, FAST, thinned
from grpo_oracle import oracle_logprobs, oracle_loss

from fastrl.kernels._products import HeadProducts
from fastrl.ops import LossConfig, grpo_loss, linear_grpo_loss, linear_logprob

CU = torch.tensor([0, 5, 5, 6, 14, 19], dtype=torch.int32)
T = 19
VARIANTS = [
    {"loss_type": "grpo"},
    {"loss_type": "dr_grpo", "clip_eps_high": 0.3},
    {"loss_type": "dapo", "dual_clip": 1.3},
    {"loss_type": "bnpo"},
    {"loss_type": "gspo", "clip_eps_low": 0.03},
    {"loss_type": "cispo"},
    {"loss_type": "cispo", "cispo_bound": "around_one"},
    {"loss_type": "rloo"},
]


def make_inputs(vocab=11, width=6, dtype=torch.float32):
    hidden = torch.randn(T, width).to(dtype).requires_grad_()
    weight = torch.randn(vocab, width).to(dtype).requires_grad_()
    ids = torch.randint(0, vocab, (T,))
    with torch.no_grad():
        logprobs = oracle_logprobs(hidden, weight, ids)[0].float()
    old = logprobs + torch.randn(T) * 0.3
    loss = {
        "cu_seqlens": CU,
        "advantages": torch.tensor([1.5, 1.0, -1.0, 0.0, -0.6]),
        "loss_mask": torch.rand(T) > 0.25,
        "old_logprobs": old,
        "ref_logprobs": logprobs + torch.randn(T) * 0.4,
        "rollout_logprobs": old + torch.randn(T) * 0.2,
    }
    return hidden, weight, ids, loss


def token_advantages(loss):
    return loss["advantages"].repeat_interleave(CU.diff().long())


def oracle(hidden, weight, ids, loss, config, denominator, **head):
    scores = oracle_logprobs(hidden, weight, ids, **head)
    optional = [loss[name] for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs")]
    value, _ = oracle_loss(
        *scores[:2],
        CU,
        token_advantages(loss).double(),
        loss["loss_mask"],
        *(None if each is None else each.double() for each in optional),
        config=config,
        denominator=denominator,
    )
    return value, scores


def close(value, want, unit=1e-5):
    assert (value.double() - want.double()).norm() <= unit * want.double().norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_every_variant_against_the_oracle(backend, variant, poisoned):
    options = [
        *itertools.product(["token_truncate", "sequence_mask"], [True, False], [(0.0, 0.0)], [3, 8]),
        ("token_mask", True, (0.2, 0.0), None),
        ("sequence_truncate", False, (0.1, 0.05), 8),
    ]
    for correction, off_policy, (kl_coef, entropy_coef), chunk_rows in thinned(
        options, backend, VARIANTS.index(variant)
    ):
        config = LossConfig(
            **variant, correction=correction, correction_cap=1.1, kl_coef=kl_coef, entropy_coef=entropy_coef
        )
        hidden, weight, ids, loss = make_inputs()
        if not off_policy:
            loss["old_logprobs"] = None
        expected, scores = oracle(hidden, weight, ids, loss, config, 6.5)
        wanted = torch.autograd.grad(expected, (hidden, weight))
        out = linear_grpo_loss(
            hidden,
            weight,
            ids,
            **loss,
            config=config,
            denominator=6.5,
            chunk_rows=chunk_rows,
            backend=backend,
        )
        found = torch.autograd.grad(out.loss, (hidden, weight))
        assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        for value, want in zip(found, wanted, strict=True):
            close(value, want)
        idle = (token_advantages(loss) == 0) & (kl_coef == 0)
        assert torch.equal(out.computed, loss["loss_mask"] & ~idle)
        for value, want in zip((out.logprobs, out.entropy), scores, strict=False):
            torch.testing.assert_close(value.double(), want.detach() * out.computed, rtol=1e-5, atol=4e-6)
        assert out.stats["num_tokens_sum"] == loss["loss_mask"].sum()
        assert out.stats["computed_tokens_sum"] == out.computed.sum()
        assert out.stats["self_certainty_sum"].item() == pytest.approx(
            scores[2][out.computed].sum().item(), rel=1e-5
        )
        assert out.stats["top1_sum"] == scores[3][out.computed].sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vocab", [1, 16, 257, 32003])
def test_head_options_and_vocabularies(backend, vocab):
    hidden, weight, ids, loss = make_inputs(vocab)
    bias = torch.randn(vocab, requires_grad=True)
    head = {"bias": bias, "temperature": torch.rand(T) + 0.5, "logit_scale": 0.5, "softcap": 4.0}
    config = LossConfig(loss_type="grpo", entropy_coef=0.1)
    expected, _ = oracle(hidden, weight, ids, loss, config, 3.0, **head)
    inputs = (hidden, weight, bias)
    wanted = torch.autograd.grad(expected, inputs)
    out = linear_grpo_loss(
        hidden, weight, ids, **loss, config=config, denominator=3.0, chunk_rows=5, backend=backend, **head
    )
    found = torch.autograd.grad(out.loss, inputs)
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    for value, want in zip(found, wanted, strict=True):
        assert (value.double() - want.double()).norm() <= 2e-5 * want.double().norm() + 1e-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_two_ops_one_after_the_other(backend):
    """The hand-worked value of the pair is in their own tests."""
    hidden, weight, ids, loss = make_inputs(257, 16)
    config = LossConfig(loss_type="gspo", correction="sequence_truncate", kl_coef=0.1)
    scored = linear_logprob(hidden, weight, ids, backend=backend)
    two = grpo_loss(scored.logprobs, **loss, entropy=scored.entropy, config=config, denominator=4.0)
    wanted = torch.autograd.grad(two.loss, (hidden, weight))
    one = linear_grpo_loss(hidden, weight, ids, **loss, config=config, denominator=4.0, backend=backend)
    for value, want in zip(torch.autograd.grad(one.loss, (hidden, weight)), wanted, strict=True):
        close(value, want)
    assert set(two.stats) < set(one.stats)
    for name, value in two.stats.items():
        assert one.stats[name].item() == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hand_worked(backend):
    # probabilities 1/4 and 3/4; on policy the gradient in the logits is -A (onehot - p) / 2
    hidden = torch.eye(2, requires_grad=True)
    weight = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]], requires_grad=True)
    out = linear_grpo_loss(
        hidden,
        weight,
        torch.tensor([0, 1]),
        cu_seqlens=torch.tensor([0, 1, 2], dtype=torch.int32),
        advantages=torch.tensor([2.0, -1.0]),
        loss_mask=torch.ones(2, dtype=torch.bool),
        config=LossConfig(loss_type="dapo"),
        denominator=2.0,
        backend=backend,
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx(-0.5)
    torch.testing.assert_close(weight.grad, torch.tensor([[-0.75, -0.125], [0.75, 0.125]]))
    torch.testing.assert_close(out.logprobs, torch.tensor([1 / 4, 3 / 4]).log())


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_hidden_with_a_float32_weight(backend):
    hidden, weight, ids, loss = make_inputs(257, 32, torch.bfloat16)
    wide = weight.detach().float().requires_grad_()
    config = LossConfig(loss_type="grpo")
    expected, _ = oracle(hidden, weight, ids, loss, config, 3.0)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    out = linear_grpo_loss(
        hidden, wide, ids, **loss, config=config, denominator=3.0, backend=backend, chunk_rows=7
    )
    found = torch.autograd.grad(out.loss, (hidden, wide))
    assert [each.dtype for each in found] == [torch.bfloat16, torch.float32]
    close(found[0], wanted[0], 2**-8)  # rounded once here and once in the oracle
    close(found[1], wanted[1], 2**-9)  # rounded in the oracle alone


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_without_gradient_may_hold_anything(backend):
    hidden, weight, ids, loss = make_inputs()
    config = LossConfig(loss_type="dapo")
    idle = ~loss["loss_mask"] | (token_advantages(loss) == 0)
    results = []
    for filler in (1.0, math.nan):
        leaf = hidden.detach().clone()
        if backend != "reference":  # it computes every row
            leaf[idle] = filler
        leaf.requires_grad_()
        some = torch.where(idle, -100, ids)
        loss["old_logprobs"] = loss["old_logprobs"].masked_fill(idle, filler)
        out = linear_grpo_loss(leaf, weight, some, **loss, config=config, denominator=3.0, backend=backend)
        results.append((out.loss.detach(), *torch.autograd.grad(out.loss, (leaf, weight))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.equal(results[0][1][idle], torch.zeros_like(results[0][1][idle]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", ["grpo", "gspo", "dapo"])
def test_nothing_to_train(backend, loss_type):
    hidden, weight, ids, loss = make_inputs()
    config = LossConfig(loss_type=loss_type, correction="sequence_mask")
    for change in ({"loss_mask": torch.zeros(T, dtype=torch.bool)}, {"advantages": torch.zeros(5)}):
        out = linear_grpo_loss(
            hidden, weight, ids, **loss | change, config=config, denominator=3.0, backend=backend
        )
        for grad in torch.autograd.grad(out.loss, (hidden, weight)):
            assert torch.equal(grad, torch.zeros_like(grad))
        assert out.loss == 0
        assert not out.computed.any()
    nothing = {name: value[:0] for name, value in loss.items() if name not in ("cu_seqlens", "advantages")}
    empty = {"cu_seqlens": torch.zeros(1, dtype=torch.int32), "advantages": torch.zeros(0)}
    out = linear_grpo_loss(
        hidden[:0], weight, ids[:0], **nothing, **empty, config=config, denominator=3.0, backend=backend
    )
    assert out.loss == 0


def products(monkeypatch) -> list[str]:
    """Names of the matrix products that are made, with their rows."""
    made = []
    for name in ("logits", "grad_rows"):
        original = getattr(HeadProducts, name)

        def counted(self, operand, *args, _name=name, _original=original, **kwargs):
            made.append(f"{_name} {len(operand)}")
            return _original(self, operand, *args, **kwargs)

        monkeypatch.setattr(HeadProducts, name, counted)
    return made


@pytest.mark.parametrize("backend", FAST)
def test_work_that_is_not_done(backend, monkeypatch):
    made = products(monkeypatch)
    hidden, weight, ids, loss = make_inputs()
    loss["loss_mask"] = torch.ones(T, dtype=torch.bool)  # the fourth sequence, 8 tokens, has advantage 0

    def run(config, **change):
        made.clear()
        out = linear_grpo_loss(
            hidden, weight, ids, **loss, config=config, denominator=1.0, backend=backend, **change
        )
        if out.loss.requires_grad:
            out.loss.backward()
        return list(made)

    assert run(LossConfig()) == ["logits 11", "grad_rows 11"]
    assert run(LossConfig(), chunk_rows=8) == ["logits 6", "grad_rows 6", "logits 5", "grad_rows 5"]
    assert run(LossConfig(kl_coef=0.1)) == ["logits 19", "grad_rows 19"]
    with torch.no_grad():
        assert run(LossConfig()) == ["logits 11"]
    whole = LossConfig(loss_type="gspo")
    assert run(whole, chunk_rows=6) == ["logits 6", "grad_rows 6", "logits 5", "grad_rows 5"]
    split = ["logits 4", "logits 4", "logits 3"]
    again = [name for rows in (4, 4, 3) for name in (f"logits {rows}", f"grad_rows {rows}")]
    assert run(whole, chunk_rows=4) == split + again
    on_policy = {name: value for name, value in loss.items() if name != "old_logprobs"}
    made.clear()
    linear_grpo_loss(
        hidden, weight, ids, **on_policy, config=whole, denominator=1.0, chunk_rows=4, backend=backend
    )
    assert made == again  # the ratio is 1, no sequence has to be known as a whole


@pytest.mark.parametrize("backend", FAST)
def test_frozen_inputs_have_no_gradient(backend):
    hidden, weight, ids, loss = make_inputs()
    config = LossConfig()
    both = linear_grpo_loss(hidden, weight, ids, **loss, config=config, denominator=1.0, backend=backend)
    wanted = torch.autograd.grad(both.loss, (hidden, weight))
    for needs in ((True, False), (False, True)):
        inputs = [
            each.detach().requires_grad_(need) for each, need in zip((hidden, weight), needs, strict=True)
        ]
        out = linear_grpo_loss(*inputs, ids, **loss, config=config, denominator=1.0, backend=backend)
        out.loss.backward()
        for each, need, want in zip(inputs, needs, wanted, strict=True):
            assert torch.equal(each.grad, want) if need else each.grad is None


@pytest.mark.parametrize("backend", FAST)
def test_backward_scales_and_runs_once(backend):
    hidden, weight, ids, loss = make_inputs()
    config = LossConfig()
    one = linear_grpo_loss(hidden, weight, ids, **loss, config=config, denominator=1.0, backend=backend)
    wanted = torch.autograd.grad(one.loss, (hidden, weight))
    two = linear_grpo_loss(hidden, weight, ids, **loss, config=config, denominator=1.0, backend=backend)
    found = torch.autograd.grad(two.loss * -3, (hidden, weight), retain_graph=True)
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, -3 * want)
    with pytest.raises(RuntimeError, match="expected one call, got a second"):
        torch.autograd.grad(two.loss, (hidden, weight))


def test_gradients_add_up_over_calls():
    """The ready gradient is handed to .grad: a second micro-batch must not find its own doubled."""
    hidden, weight, ids, loss = make_inputs()
    for _ in range(2):
        linear_grpo_loss(hidden, weight, ids, **loss, config=LossConfig(), denominator=1.0).loss.backward()
    once = linear_grpo_loss(hidden, weight, ids, **loss, config=LossConfig(), denominator=1.0)
    for leaf, want in zip((hidden, weight), torch.autograd.grad(once.loss, (hidden, weight)), strict=True):
        torch.testing.assert_close(leaf.grad, 2 * want)


@pytest.mark.parametrize("loss_type", ["grpo", "gspo", "dapo", "cispo"])
def test_uneven_micro_batches_give_the_single_batch_gradient(loss_type):
    hidden, weight, ids, loss = make_inputs()
    config = LossConfig(loss_type=loss_type, correction="sequence_truncate", correction_cap=1.1)
    denominator = config.denominator(int(loss["loss_mask"].sum()), 5, 10)
    whole = linear_grpo_loss(hidden, weight, ids, **loss, config=config, denominator=denominator)
    wanted = torch.autograd.grad(whole.loss, (hidden, weight))
    totals: dict[str, float] = {}
    for first, last in ((0, 1), (1, 4), (4, 5)):
        begin, end = int(CU[first]), int(CU[last])
        part = {
            name: value[begin:end] for name, value in loss.items() if name not in ("cu_seqlens", "advantages")
        }
        part |= {"cu_seqlens": CU[first : last + 1] - begin, "advantages": loss["advantages"][first:last]}
        out = linear_grpo_loss(
            hidden[begin:end], weight, ids[begin:end], **part, config=config, denominator=denominator
        )
        out.loss.backward()
        for name, value in out.stats.items():
            fold = min if name.endswith("_min") else max if name.endswith("_max") else float.__add__
            totals[name] = fold(totals[name], value.item()) if name in totals else value.item()
    for leaf, want in zip((hidden, weight), wanted, strict=True):
        close(leaf.grad, want, 1e-6)
    for name, value in whole.stats.items():
        assert totals[name] == pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_from_run_to_run(backend, threads):
    hidden, weight, ids, loss = make_inputs(4099, 16)
    config = LossConfig(loss_type="grpo", entropy_coef=0.01)
    results = []
    for count in (1, 1, 2, 2):
        threads(count)
        out = linear_grpo_loss(
            hidden, weight, ids, **loss, config=config, denominator=1.0, backend=backend, chunk_rows=8
        )
        results.append((out.loss.detach(), *torch.autograd.grad(out.loss, (hidden, weight))))
    for first, second in (results[:2], results[2:]):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_refusals_of_either_half():
    hidden, weight, ids, loss = make_inputs()

    def run(**change):
        given = {"hidden": hidden, "weight": weight, "ids": ids, "config": LossConfig(), "denominator": 1.0}
        return linear_grpo_loss(**given | loss | change)

    for change, error, words in (
        ({"weight": weight[:, :2]}, ValueError, "weight: expected shape"),
        ({"ids": ids + 11}, ValueError, "ids: expected values in"),
        ({"loss_mask": ids > 0, "cu_seqlens": CU + 1}, ValueError, "cu_seqlens: expected to run from 0"),
        ({"advantages": torch.ones(7)}, ValueError, "advantages: expected shape"),
        ({"config": LossConfig(kl_coef=1.0), "ref_logprobs": None}, ValueError, "ref_logprobs: expected"),
        ({"chunk_rows": 0}, ValueError, "chunk_rows: expected >= 1"),
        ({"denominator": -1.0}, ValueError, "denominator: expected > 0"),
        ({"backend": "cuda"}, ValueError, "backend: expected auto or one of"),
    ):
        with pytest.raises(error, match=rf"\[linear_grpo_loss\] {words}"):
            run(**change)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_float64(variant):
    """The chunked pass gives its gradients away once: gradcheck sees the reference, which it then equals."""
    hidden, weight, ids, loss = make_inputs()
    wide = {n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in loss.items()}
    config = LossConfig(**variant, kl_coef=0.2, entropy_coef=0.1)
    leaves = [each.detach().double().requires_grad_() for each in (hidden, weight)]

    def value(hidden, weight, **options):
        options = {"backend": "reference"} | options
        return linear_grpo_loss(hidden, weight, ids, **wide, config=config, denominator=3.0, **options).loss

    if config.loss_type not in ("gspo", "cispo"):  # whose ratio is not differentiated as it stands
        assert torch.autograd.gradcheck(value, leaves, fast_mode=True)
    wanted = torch.autograd.grad(value(*leaves), leaves)
    for options in ({}, {"chunk_rows": 4}, {"recompute": True, "chunk_rows": 7}):
        found = torch.autograd.grad(value(*leaves, backend="torch", **options), leaves)
        for one, want in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, want, rtol=1e-11, atol=1e-13)
