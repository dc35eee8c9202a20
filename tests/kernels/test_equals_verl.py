"""fastrl's losses, aggregations, KL penalties, rollout corrections and advantages equal verl 0.9.1's.

Only in verl: the policy losses dppo_tv, dppo_kl, sapo, gpg, clip_cov, kl_cov, geo_mean, dro; the KL penalties
abs, full and those with "+"; rejection sampling (rollout_rs), the lower bound and the batch normalisation of
rollout weights; the other advantage estimators.

Differences: in verl a sequence without a trained token does not count in sequence means, in fastrl it does,
so every sequence here has one. IcePop zeroes weights outside "lower_upper" and needs a positive lower bound;
with one below every weight it is fastrl's mask.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastrl.ops import LossConfig, group_advantage, grpo_loss, linear_grpo_loss

core = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
rollout_correction = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper")

LENGTHS = [3, 6, 1, 5]
CU = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
NUM_TOKENS, LONGEST = sum(LENGTHS), max(LENGTHS)
MASK = torch.ones(NUM_TOKENS, dtype=torch.bool)
MASK[[4, 12]] = False
ADVANTAGES = torch.tensor([1.5, -0.4, 1.1, 0.8])
SMALLEST = "0.000001"
BACKENDS = ("cpp", "reference")
AGGREGATION = {
    "grpo": "seq-mean-token-mean",
    "gspo": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
}
FUNCTIONS = {
    "grpo": "vanilla",
    "dr_grpo": "vanilla",
    "dapo": "vanilla",
    "bnpo": "vanilla",
    "gspo": "gspo",
    "cispo": "cispo",
    "rloo": "reinforce",
}


def padded(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(values.split(LENGTHS), batch_first=True)


def actor_config(config: LossConfig):
    from verl.workers.config import ActorConfig

    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=config.clip_eps_low,
        clip_ratio_high=config.eps_high,
        clip_ratio_c=config.dual_clip or 1e9,
    )


def loss_config(loss_type: str, **options) -> LossConfig:
    return LossConfig(
        loss_type=loss_type, clip_eps_low=0.05, clip_eps_high=0.08, cispo_bound="around_one", **options
    )


def verl_weights(old: torch.Tensor, rollout: torch.Tensor, config: LossConfig) -> torch.Tensor:
    level, rule = config.correction.split("_")
    cap = config.correction_cap
    weights, _ = rollout_correction.compute_rollout_correction_weights(
        padded(old - rollout),
        padded(MASK).float(),
        rollout_is=level,
        rollout_is_threshold=cap if rule == "truncate" else f"{SMALLEST}_{cap}",
    )
    return weights


def verl_loss(config: LossConfig, logprobs, old, rollout=None) -> torch.Tensor:
    name, mask = FUNCTIONS[config.loss_type], padded(MASK).float()
    function = core.compute_policy_loss_reinforce if name == "reinforce" else core.get_policy_loss_fn(name)
    loss, _ = function(
        padded(old),
        padded(logprobs),
        ADVANTAGES[:, None].expand_as(mask),
        mask,
        loss_agg_mode=AGGREGATION.get(config.loss_type, "token-mean"),
        config=actor_config(config),
        rollout_is_weights=None if rollout is None else verl_weights(old, rollout, config),
    )
    return loss


def arguments(config: LossConfig, backend: str) -> dict:
    denominator = config.denominator(int(MASK.sum()), len(LENGTHS), LONGEST)
    return {
        "cu_seqlens": CU,
        "loss_mask": MASK,
        "config": config,
        "denominator": denominator,
        "backend": backend,
    }


def check(config: LossConfig, backend: str, correct: bool = False) -> dict[str, torch.Tensor]:
    logprobs = -torch.rand(NUM_TOKENS) * 3
    old = logprobs + torch.randn(NUM_TOKENS) * 0.4
    rollout = old + torch.randn(NUM_TOKENS) * 0.2 if correct else None
    theirs, ours = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()
    expected = verl_loss(config, theirs, old, rollout)
    expected.backward()
    out = grpo_loss(
        ours,
        advantages=ADVANTAGES,
        old_logprobs=old,
        rollout_logprobs=rollout,
        **arguments(config, backend),
    )
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected, rtol=1e-6, atol=0)
    assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm()
    return out.stats


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", FUNCTIONS)
def test_loss_and_gradient(loss_type, backend):
    stats = check(loss_config(loss_type), backend)
    assert loss_type == "rloo" or stats["clip_low_sum"] + stats["clip_high_sum"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", [name for name, function in FUNCTIONS.items() if function == "vanilla"])
def test_dual_clip(loss_type, backend):
    stats = check(loss_config(loss_type, dual_clip=1.1), backend)
    assert stats["ratio_max"] > 1.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("loss_type", FUNCTIONS)
def test_rollout_correction(loss_type, mode, backend):
    stats = check(loss_config(loss_type, correction=mode, correction_cap=1.125), backend, correct=True)
    smallest = 0.0 if mode.endswith("mask") else stats["correction_min"]
    assert stats["correction_min"] == smallest < stats["correction_max"] <= 1.125


@pytest.mark.parametrize("backend", ["cpp", "torch", "reference"])
@pytest.mark.parametrize("loss_type", FUNCTIONS)
def test_through_the_head(loss_type, backend):
    """verl's loss on log-probs that autograd made, against the fused op."""
    config = loss_config(loss_type)
    ids = torch.randint(30, (NUM_TOKENS,))
    leaves = [torch.randn(NUM_TOKENS, 8), torch.randn(30, 8) * 0.5]
    theirs, ours = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    logprobs = (theirs[0] @ theirs[1].T).log_softmax(-1).gather(1, ids[:, None])[:, 0]
    old = logprobs.detach() + torch.randn(NUM_TOKENS) * 0.4
    expected = verl_loss(config, logprobs, old)
    expected.backward()
    given = {"advantages": ADVANTAGES, "old_logprobs": old} | arguments(config, backend)
    out = linear_grpo_loss(*ours, ids, **given)
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected, rtol=1e-6, atol=0)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert (mine.grad - wanted.grad).norm() <= 1e-5 * wanted.grad.norm()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize(("estimator", "name"), [("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl")])
def test_kl(estimator, name, loss_type, backend):
    """The KL and its gradient, aggregated as verl's actor does."""
    logprobs, ref = -torch.rand(NUM_TOKENS) * 3, -torch.rand(NUM_TOKENS) * 3
    theirs, ours = logprobs.clone().requires_grad_(), logprobs.clone().requires_grad_()
    penalty = core.kl_penalty(padded(theirs), padded(ref), name)
    expected = core.agg_loss(penalty, padded(MASK).float(), AGGREGATION.get(loss_type, "token-mean"))
    expected.backward()
    config = loss_config(loss_type, kl_coef=1.0, kl_estimator=estimator)
    given = {"advantages": torch.zeros(4), "ref_logprobs": ref} | arguments(config, backend)
    out = grpo_loss(ours, **given)
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected, rtol=2e-6, atol=1e-7)
    assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm()


REWARDS = [0.1, 0.9, 0.4, 0.3, 0.8, 0.5, 0.5, 0.0, 1.0, 0.2, 0.7, 0.6]
GROUPS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 1, 0, 2])
ADVANTAGE_CASES = {
    "grpo": (core.compute_grpo_outcome_advantage, {}, {}),
    "grpo_no_std": (
        core.compute_grpo_outcome_advantage, {"norm_adv_by_std_in_grpo": False}, {"scale": "none"}
    ),
    "rloo": (core.compute_rloo_outcome_advantage, {}, {"scale": "none", "baseline": "leave_one_out"}),
    "rloo_vectorized": (
        core.compute_rloo_vectorized_outcome_advantage, {}, {"scale": "none", "baseline": "leave_one_out"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ADVANTAGE_CASES)
def test_advantages(case, backend):
    function, theirs, ours = ADVANTAGE_CASES[case]
    rewards = torch.tensor(REWARDS)
    scores, _ = function(rewards[:, None].clone(), torch.ones(12, 1), GROUPS, epsilon=1e-6, **theirs)
    out = group_advantage(rewards, torch.from_numpy(GROUPS), eps=1e-6, backend=backend, **ours)
    torch.testing.assert_close(out, scores[:, 0], rtol=1e-6, atol=1e-6)
