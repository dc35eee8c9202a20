"""enable(): TRL's trainers with fastrl's kernel train as they do without it."""

from __future__ import annotations

import warnings

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed")
import trl
import trl_runs as world
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils

from fastrl.integrations import trl_options
from fastrl.integrations.trl import COMPACTS, HEAD, FusedHead, disable, enable

ROWS, WIDTH, VOCAB = 37, 12, 53


@pytest.fixture(autouse=True)
def _leave_disabled():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    disable()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return world.write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("options", [{}, {"loss_type": "grpo", "beta": 0.05, "entropy_coef": 0.02}])
def test_a_grpo_run_is_the_same(options, model, tmp_path):
    theirs = world.run(world.Plain, model, tmp_path, **options)
    with enable():
        calls = counted(getattr(utils, HEAD))
        ours = world.run(world.Plain, model, tmp_path, **options)
    assert calls["num"] >= 4 and len(ours.steps) == 2
    # the second step's weights have been through Adam, which makes much of a gradient that is nearly 0
    for mine, step, tolerance in zip(ours.steps, theirs.steps, (1e-5, 1e-4), strict=True):
        assert mine.prompts == step.prompts
        assert mine.losses == pytest.approx(step.losses, abs=1e-5)
        for name, expected in step.gradients.items():
            assert (mine.gradients[name] - expected).norm() <= tolerance * expected.norm(), name
        for found, wanted in zip(mine.metrics, step.metrics, strict=True):
            found, wanted = ({k: v for k, v in each.items() if k != "step_time"} for each in (found, wanted))
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_a_trainer_made_before_takes_it_and_leaves_it(model, tmp_path):
    trainer = world.Plain(
        str(model), world.by_tokens, world.arguments(tmp_path), world.rows(),
        processing_class=world.AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    enable()
    calls = counted(getattr(utils, HEAD))
    trainer.train()
    assert calls["num"] > 0
    disable()
    with torch.no_grad():
        ids = torch.tensor([[3, 4, 5]])
        trainer.model(input_ids=ids, labels=ids, fused_lm_head=True)
    assert calls["num"] == calls["after"], "called after disable()"


def counted(head: FusedHead) -> dict[str, int]:
    calls = {"num": 0, "after": 0}
    apply = head.apply

    def counting(*args):
        calls["num"] += 1
        calls["after"] = calls["num"]
        return apply(*args)

    head.apply = counting
    return calls


def inputs(dtype=torch.float32, rows=ROWS, bias=True):
    torch.manual_seed(1)
    tensors = [torch.randn(rows, WIDTH), torch.randn(VOCAB, WIDTH), torch.randn(VOCAB) if bias else None]
    tensors = [None if each is None else each.to(dtype).requires_grad_() for each in tensors]
    return (*tensors, torch.randint(0, VOCAB, (rows,)))


HEADS = {
    "plain": (1.0, 16, None, 1.0),
    "temperature": (0.7, 32768, None, 1.0),
    "softcap": (0.9, 32768, 5.0, 1.0),
    "scale": (1.0, 20, None, 0.4),
    "all": (1.3, 20, 4.0, 1.5),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", HEADS)
def test_the_contract(how, bias):
    results = []
    for function in (ChunkedLogProbFunction, FusedHead("auto", ChunkedLogProbFunction)):
        given = inputs(bias=bias)
        outputs = ("log_probs", "entropy", "is_top1")
        out = function.apply(*given, *HEADS[how], outputs)
        assert out[2] is None and out[3] is None and out[0].dtype == out[1].dtype == torch.float32
        (out[0].square().sum() + out[1].sum()).backward()
        results.append([out[0], out[1], out[4], *(each.grad for each in given[:3] if each is not None)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("outputs", [("log_probs",), ("log_probs", "entropy")])
def test_only_requested_outputs_are_computed(outputs):
    out = FusedHead("auto", None).apply(*inputs(), 1.0, 16, None, 1.0, outputs)
    assert [each is not None for each in out] == [True, "entropy" in outputs, False, False, False]


def test_no_rows_have_gradients_of_zero():
    given = inputs(rows=0)
    out = FusedHead("auto", None).apply(*given, 1.0, 16, None, 1.0, ("log_probs", "entropy"))
    assert out[0].shape == out[1].shape == (0,)
    out[0].sum().backward()
    assert given[1].grad.abs().sum() == 0 and given[0].grad.shape == (0, WIDTH)


def test_autocast_computes_in_its_dtype_and_nearer_to_the_truth():
    """Inputs that bfloat16 holds exactly: what differs is the rounding of logits."""
    hidden, weight, _, targets = inputs(torch.bfloat16, bias=False)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    errors = []
    for function in (ChunkedLogProbFunction, FusedHead("auto", ChunkedLogProbFunction)):
        with torch.autocast("cpu", torch.bfloat16):
            out = function.apply(
                hidden.float(), weight.float(), None, targets, 1.0, 32768, None, 1.0, ("log_probs",)
            )
        errors.append((out[0] - exact).abs().max().item())
    assert errors[1] < 1e-5 < errors[0]


@pytest.mark.parametrize("extra", ["mean_logits", "log_sum_sq_probs"])
def test_unsupported_outputs_use_trls_head_with_one_warning(extra):
    outputs = ("log_probs", "entropy", extra)
    expected = ChunkedLogProbFunction.apply(*inputs(), *HEADS["plain"], outputs)
    head = FusedHead("auto", ChunkedLogProbFunction)
    with pytest.warns(UserWarning, match=f"does not support {extra}"):
        found = head.apply(*inputs(), *HEADS["plain"], outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.apply(*inputs(), *HEADS["plain"], outputs)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))


def test_only_labels_are_scored(model):
    """On a CPU TRL scores prompts as well."""
    causal = trl.trainer.utils.create_model_from_path(str(model))
    utils.add_fused_lm_head(causal, outputs=("log_probs", "entropy"))
    ids = torch.tensor([[3, 4, 5, 6, 7], [0, 8, 9, 1, 0]])
    labels = ids.masked_fill(torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 1]]).bool(), -100)
    expected = causal(input_ids=ids, labels=labels, fused_lm_head=True)
    with enable():
        scored = []
        head = getattr(utils, HEAD)
        apply = head.apply
        head.apply = lambda *args: scored.append(len(args[0])) or apply(*args)
        found = causal(input_ids=ids, labels=labels, fused_lm_head=True)
    assert scored == [4]
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=0, atol=1e-5)
    assert (found.log_probs != 0).sum() == 4


def test_enable_and_disable():
    before = {name: getattr(utils, name) for name in (HEAD, COMPACTS)}
    assert before[HEAD] is ChunkedLogProbFunction
    with enable():
        enable("torch")
        assert getattr(utils, HEAD).backend == "torch" and getattr(utils, HEAD).original is before[HEAD]
    assert {name: getattr(utils, name) for name in before} == before
    disable()
    assert {name: getattr(utils, name) for name in before} == before
    with pytest.raises(ZeroDivisionError), enable():
        1 / 0  # noqa: B018
    assert {name: getattr(utils, name) for name in before} == before


@pytest.mark.parametrize("release", ["1.15.2", "1.17.0", "2.0.0"])
def test_another_release_is_refused(release, monkeypatch):
    monkeypatch.setattr(trl_options, "version", lambda name: release)
    with pytest.raises(RuntimeError, match=rf"expected 1\.16\.x, got {release}"):
        enable()
    assert getattr(utils, HEAD) is ChunkedLogProbFunction


def test_another_head_is_refused(monkeypatch):
    class Other:
        @staticmethod
        def forward(ctx, hidden, weight, targets):
            raise AssertionError

    monkeypatch.setattr(utils, HEAD, Other)
    with pytest.raises(RuntimeError, match="expected ctx, hidden, weight, bias"):
        enable()
    assert getattr(utils, HEAD) is Other


def test_a_backend_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"backend: expected .*cpp.*got 'metal'"):
        FusedHead("metal", None).apply(*inputs(), *HEADS["plain"], ("log_probs",))
