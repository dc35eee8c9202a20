"""fastrl's losses and gradients equal TRL 1.16's on the micro-batches of a real GRPOTrainer.

TRL runs its own path: it tokenizes, generates, scores, shuffles, splits and takes two optimizer steps.

Compared: loss types grpo, bnpo, dr_grpo, dapo, cispo; importance_sampling_level "sequence" with grpo (gspo);
epsilon, epsilon_high, delta, beta, use_bias_correction_kl, entropy_coef, temperature; the four vLLM
corrections and their upper bound; tool masks, masked truncated completions; scale_rewards.

Only in TRL: loss types sapo, luspo and vespo; importance_sampling_level "sequence" with other loss types;
vllm_importance_sampling_clip_min; off_policy_mask_threshold; top_entropy_quantile; use_adaptive_entropy;
multi_objective_aggregation "normalize_then_sum"; the auxiliary loss of experts.

Differences:
- TRL differentiates gspo's ratio as a whole, fastrl through each token. With a KL times that ratio the
  gradients differ, so gspo is compared without it.
- TRL's bnpo divides by the tokens of a micro-batch, fastrl's by the step's. trl_world.loss_of passes TRL's
  denominator to fastrl.
- TRL's entropy bonus is a micro-batch's mean over tokens for every loss type, fastrl's has the loss's
  weights. They are compared with bnpo, which has the same weights.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fastrl.ops import group_advantage

pytest.importorskip("trl", reason="trl is not installed")
import trl_world as world

LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "bnpo": {"loss_type": "bnpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "use_bias_correction_kl": False,
    },
}
CORRECTIONS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
CASES = dict(LOSSES)
CASES |= {f"{name}-beta": options | {"beta": 0.05} for name, options in LOSSES.items()}
CASES |= {
    f"{name}-plain-kl": LOSSES[name] | {"beta": 0.05, "use_bias_correction_kl": False}
    for name in ("dapo", "cispo")
}
CASES |= {f"{name}-delta": options | {"delta": 1.5} for name, options in LOSSES.items() if name != "cispo"}
CASES |= {"bnpo-entropy": {"loss_type": "bnpo", "entropy_coef": 0.05, "beta": 0.05}}


def corrected(name: str, mode: str) -> dict:
    bound = {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 1.15}
    return LOSSES[name] | bound | {"beta": 0.05, "engine": True}


CASES |= {
    f"{name}-{mode}": corrected(name, mode)
    for name in ("grpo", "dapo", "cispo", "gspo")
    for mode in CORRECTIONS
    if name != "gspo" or mode.startswith("sequence")
}
CASES |= {"grpo-truncated": corrected("grpo", "token_mask") | {"mask_truncated_completions": True}}
OPS = [
    ("linear_grpo_loss", "cpp"),
    ("linear_grpo_loss", "torch"),
    ("linear_grpo_loss", "reference"),
    ("grpo_loss", "cpp"),
    ("grpo_loss", "reference"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Matrices of 32 columns: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return world.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory):
    """Train each case once, in whatever order its tests come."""
    return cache(lambda name: world.train(model, tmp_path_factory.mktemp("run"), **CASES[name]))


# make check looks at the loss types alone
@pytest.fixture(params=[pytest.param(n, marks=[] if n in LOSSES else pytest.mark.trains) for n in CASES])
def trainer(request, trained):
    return trained(request.param)


def equals(loss: torch.Tensor, trainer: world.Trainer, batch: world.MicroBatch) -> bool:
    """To 1e-6; of the terms' size where the sum cancels to nothing, as the advantages of a group sum to 0."""
    if loss.item() == pytest.approx(batch.loss.item(), rel=1e-6, abs=0):
        return True
    with torch.no_grad():
        inputs = batch.inputs | {"advantages": batch.inputs["advantages"].abs()}
        size = world.loss_of(trainer, inputs, "grpo_loss", "reference").loss.abs().item()
    return loss.item() == pytest.approx(batch.loss.item(), abs=1e-6 * size)


@pytest.mark.parametrize(("op", "backend"), OPS)
def test_losses_and_gradients(trainer, op, backend):
    for step in trainer.steps:
        trainer.model.load_state_dict(step.weights)
        trainer.model.zero_grad()
        for batch in step.micro_batches:
            out = world.loss_of(trainer, batch.inputs, op, backend)
            assert equals(out.loss, trainer, batch)
            out.loss.backward()
        parameters = dict(trainer.model.named_parameters())
        assert parameters.keys() == step.gradients.keys()
        for name, parameter in parameters.items():
            expected = step.gradients[name]
            assert (parameter.grad - expected).norm() <= 1e-5 * expected.norm(), name


def test_metrics(trainer):
    config = world.loss_config(trainer)
    for step in trainer.steps:
        trainer.model.load_state_dict(step.weights)
        for batch in step.micro_batches:
            stats = world.loss_of(trainer, batch.inputs, "grpo_loss", "cpp").stats
            means = {name: float(value / stats["num_tokens_sum"]) for name, value in stats.items()}
            assert means["entropy_sum"] == pytest.approx(batch.metrics["entropy"], rel=1e-5)
            if config.kl_coef:
                assert means["kl_sum"] == pytest.approx(batch.metrics["kl"], rel=1e-4, abs=1e-7)
            if config.loss_type == "cispo":
                assert means["clip_high_sum"] == pytest.approx(batch.metrics["cispo_clip_ratio"])
            elif config.loss_type != "gspo":  # where TRL counts sequences
                assert means["clip_low_sum"] == pytest.approx(batch.metrics["clip_ratio/low_mean"])
                assert means["clip_high_sum"] == pytest.approx(batch.metrics["clip_ratio/high_mean"])


def test_the_comparison_has_something_to_compare(trainer):
    """The second step is off-policy and clips; the corrections bind, and leave out a tool's tokens."""
    assert len(trainer.steps) == 2
    assert all(len(step.micro_batches) == world.ACCUMULATION for step in trainer.steps)
    clipped = [batch.metrics for batch in trainer.steps[1].micro_batches]
    names = {"cispo_clip_ratio", "clip_ratio/low_mean", "clip_ratio/high_mean"} & clipped[0].keys()
    assert all(sum(metrics[name] for metrics in clipped) > 0 for name in names)
    if trainer.use_vllm:
        inputs = [batch.inputs for batch in trainer.steps[1].micro_batches]
        bound = 1.15 if trainer.vllm_importance_sampling_mode.endswith("truncate") else 0.0
        weights = torch.cat([given["importance_sampling_ratio"].flatten() for given in inputs])
        assert (weights == bound).any() and (weights != bound).any()
        assert any((given["tool_mask"] < given["completion_mask"]).any() for given in inputs)
        assert any(given["sampling_per_token_logps"].isnan().any() for given in inputs)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask"])
def test_gspo_with_token_corrections_has_the_same_loss(model, tmp_path, mode):
    """Only the loss: TRL differentiates the sequence's ratio as one, so a token's correction reaches its
    neighbours; ours and verl's flow through each token."""
    trainer = world.train(model, tmp_path, **corrected("gspo", mode))
    for step in trainer.steps:
        trainer.model.load_state_dict(step.weights)
        for batch in step.micro_batches:
            out = world.loss_of(trainer, batch.inputs, "linear_grpo_loss", "cpp")
            assert equals(out.loss, trainer, batch)


@pytest.mark.parametrize(("theirs", "ours"), [("group", "std"), ("batch", "batch"), ("none", "none")])
def test_advantages(model, tmp_path, theirs, ours):
    trainer = world.train(model, tmp_path, scale_rewards=theirs)
    rewards = torch.tensor(list(trainer._logs["rewards"]["reward"]))
    expected = torch.tensor(list(trainer._logs["advantages"]))
    ids = torch.arange(len(world.PROMPTS)).repeat_interleave(trainer.num_generations)
    assert len(rewards) == len(expected) == len(ids) and expected.norm() > 1
    for backend in ("cpp", "reference"):
        out = group_advantage(rewards, ids, scale=ours, backend=backend)
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
