"""Options that change only the cost: recomputation, fixed shapes, skipped columns, given active rows."""

from __future__ import annotations

import pytest
import torch
from backends import FAST

from fastrl.ops import LossConfig, linear_grpo_loss, linear_logprob

VOCAB, WIDTH = 2500, 16


def make_inputs(lengths=(7, 1, 12, 20), peaked=False, vocab=VOCAB):
    num_tokens = sum(lengths)
    ids = torch.randint(0, vocab, (num_tokens,))
    weight = torch.randn(vocab, WIDTH)
    hidden = torch.randn(num_tokens, WIDTH)
    if peaked:
        hidden = 1.2 * weight[ids] + 0.3 * hidden
    old = -torch.rand(num_tokens) * 3
    batch = {
        "cu_seqlens": torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32),
        "advantages": torch.randn(len(lengths)),
        "loss_mask": torch.rand(num_tokens) > 0.3,
        "old_logprobs": old,
        "rollout_logprobs": old + 0.1 * torch.randn(num_tokens),
        "denominator": 9.0,
    }
    return hidden.requires_grad_(), weight.requires_grad_(), ids, batch


def run(inputs, config=None, **options):
    hidden, weight, ids, batch = inputs
    out = linear_grpo_loss(hidden, weight, ids, **batch, config=config or LossConfig(), **options)
    return out, torch.autograd.grad(out.loss, (hidden, weight))


def same(found, wanted, unit=2e-6):
    for value, want in zip(found, wanted, strict=True):
        assert (value - want).norm() <= unit * want.norm()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "gspo"])
def test_recompute(backend, loss_type):
    inputs = make_inputs(vocab=600)
    config = LossConfig(loss_type=loss_type, entropy_coef=0.1, correction="sequence_truncate")
    want, wanted = run(inputs, config, backend="reference")
    for chunk_rows in (None, 5):
        out, found = run(inputs, config, recompute=True, chunk_rows=chunk_rows, backend=backend)
        same(found, wanted, 1e-5)
        assert out.loss.item() == pytest.approx(want.loss.item(), rel=1e-5)
        assert {n: v.item() for n, v in out.stats.items()} == pytest.approx(
            {n: v.item() for n, v in want.stats.items()}, rel=1e-5
        )


@pytest.mark.parametrize("backend", ["cpp", "torch"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_row_does_not_depend_on_the_rows_around_it(backend, recompute):
    """Same bits alone, first, last, or among others, in all that is a row's."""
    hidden, weight, ids, _ = make_inputs((40,))
    advantages = torch.rand(40) + 0.5

    def rows_of(chosen):
        options = {"batch_invariant": True, "chunk_rows": 16, "backend": backend}
        scored = linear_logprob(hidden[chosen], weight, ids[chosen], **options)
        (by_score,) = torch.autograd.grad(scored.logprobs.sum() + scored.entropy.sum(), hidden)
        loss = linear_grpo_loss(
            hidden[chosen],
            weight,
            ids[chosen],
            cu_seqlens=torch.tensor([0, len(chosen)], dtype=torch.int32),
            advantages=advantages[chosen],
            loss_mask=torch.ones(len(chosen), dtype=torch.bool),
            config=LossConfig(),
            denominator=3.0,
            recompute=recompute,
            **options,
        )
        (by_loss,) = torch.autograd.grad(loss.loss, hidden)
        assert torch.equal(loss.logprobs, scored.logprobs) or not recompute
        values = (scored.logprobs, scored.entropy, scored.self_certainty, loss.logprobs)
        return torch.cat([torch.stack(values, 1), by_score[chosen], by_loss[chosen]], 1).detach()

    everything = rows_of(torch.arange(40))
    for chosen in ([0], [17], [39, 3], list(range(5, 29)), list(range(39, -1, -1))):
        assert torch.equal(rows_of(torch.tensor(chosen)), everything[chosen])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.2])
def test_skipped_columns_stay_within_their_bound(backend, share):
    inputs = make_inputs(peaked=True)
    exact, wanted = run(inputs, chunk_rows=16, backend=backend)
    out, found = run(inputs, skip_share=share, chunk_rows=16, backend=backend)
    assert torch.equal(out.loss, exact.loss) or backend != "cpp"
    assert out.stats["skipped_columns_sum"] > 0
    for name, value, want in zip(("hidden", "weight"), found, wanted, strict=True):
        error, bound = (value - want).norm().item(), out.stats[f"grad_{name}_error_sum"].item()
        assert 0 < error <= bound + 1e-6 * want.norm().item()
        assert bound < 50 * error + 1e-3  # says something
    assert "skipped_columns_sum" not in exact.stats


@pytest.mark.parametrize("backend", FAST)
def test_skipping_leaves_the_bias_exact(backend):
    hidden, weight, ids, batch = make_inputs(peaked=True)
    bias = torch.zeros(VOCAB, requires_grad=True)
    grads = [
        torch.autograd.grad(
            linear_grpo_loss(
                hidden, weight, ids, **batch, bias=bias, config=LossConfig(), skip_share=s, backend=backend
            ).loss,
            bias,
        )[0]
        for s in (0.0, 0.1)
    ]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("loss_type", ["dapo", "gspo"])
def test_rows_known_beforehand(backend, loss_type):
    """More room than rows changes nothing; less is refused."""
    inputs = make_inputs(vocab=600)
    config = LossConfig(loss_type=loss_type)
    want, wanted = run(inputs, config, backend=backend)
    active = int(want.computed.sum())
    for most, chunk_rows in ((active, None), (active + 3, 8), (1000, 16)):
        out, found = run(inputs, config, max_active_rows=most, chunk_rows=chunk_rows, backend=backend)
        same(found, wanted)
        torch.testing.assert_close(out.logprobs, want.logprobs)
        assert out.stats["computed_tokens_sum"] == active
    with pytest.raises(RuntimeError, match=f"max_active_rows: expected at least .* got {active - 1}"):
        run(inputs, config, max_active_rows=active - 1, backend=backend)


@pytest.mark.parametrize("backend", FAST)
def test_logprob_rows_known_beforehand(backend):
    hidden, weight, ids, _ = make_inputs()
    slopes = (torch.rand(40) > 0.6).float()
    grads = []
    for most in (None, 40, int(slopes.sum())):
        out = linear_logprob(hidden, weight, ids, max_active_rows=most, backend=backend)
        grads.append(torch.autograd.grad((out.logprobs * slopes).sum(), (hidden, weight)))
    same(grads[1], grads[0])
    same(grads[2], grads[0])


def test_refusals():
    inputs = make_inputs()
    for options, words in (
        ({"skip_share": 1.0}, r"skip_share: expected a number in \[0, 1\)"),
        ({"skip_share": 0.1, "recompute": True}, "skip_share: expected 0 with recompute"),
        ({"max_active_rows": 0}, "max_active_rows: expected >= 1"),
    ):
        with pytest.raises(ValueError, match=words):
            run(inputs, **options)
