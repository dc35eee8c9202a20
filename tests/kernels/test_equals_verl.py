"""verl's own policy losses and advantages, on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastrl.ops import LossConfig, group_advantage, grpo_loss

core = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")

LENGTHS = [3, 6, 1, 5]
CU = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
NUM_TOKENS = sum(LENGTHS)
AGGREGATION = {"grpo": "seq-mean-token-mean", "gspo": "seq-mean-token-mean"}


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


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize(
    ("loss_type", "name"),
    [("grpo", "vanilla"), ("dapo", "vanilla"), ("gspo", "gspo"), ("cispo", "cispo"), ("rloo", "reinforce")],
)
def test_loss_and_gradient(loss_type, name, correct, backend):
    config = LossConfig(
        loss_type=loss_type,
        clip_eps_high=0.28,
        cispo_bound="around_one",
        dual_clip=None if loss_type == "gspo" else 1.4,
        correction_cap=1.1,
    )
    logprobs = -torch.rand(NUM_TOKENS) * 3
    old = logprobs + torch.randn(NUM_TOKENS) * 0.4
    rollout = old + torch.randn(NUM_TOKENS) * 0.2 if correct else None
    advantages = torch.tensor([1.0, -0.5, 0.3, -1.2])
    mask = padded(torch.ones(NUM_TOKENS))
    weights = padded((old - rollout).exp().clamp(max=1.1)) if correct else None

    theirs = logprobs.clone().requires_grad_()
    arguments = (padded(old), padded(theirs), advantages[:, None].expand_as(mask), mask)
    function = core.compute_policy_loss_reinforce if name == "reinforce" else core.get_policy_loss_fn(name)
    expected, _ = function(
        *arguments,
        loss_agg_mode=AGGREGATION.get(loss_type, "token-mean"),
        config=actor_config(config),
        rollout_is_weights=weights,
    )
    expected.backward()
    ours = logprobs.clone().requires_grad_()
    out = grpo_loss(
        ours,
        cu_seqlens=CU,
        advantages=advantages,
        loss_mask=torch.ones(NUM_TOKENS, dtype=torch.bool),
        old_logprobs=old,
        rollout_logprobs=rollout,
        config=config,
        denominator=config.denominator(NUM_TOKENS, 4, 6),
        backend=backend,
    )
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl(estimator):
    logprobs, ref = -torch.rand(NUM_TOKENS) * 3, -torch.rand(NUM_TOKENS) * 3
    out = grpo_loss(
        logprobs,
        cu_seqlens=CU,
        advantages=torch.zeros(4),
        loss_mask=torch.ones(NUM_TOKENS, dtype=torch.bool),
        ref_logprobs=ref,
        config=LossConfig(kl_coef=1.0, kl_estimator=estimator),
        denominator=1.0,
    )
    torch.testing.assert_close(out.loss, core.kl_penalty(logprobs, ref, estimator).sum())


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_advantages(backend):
    rewards = torch.rand(12)
    ids = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 1, 0, 2])
    arguments = (rewards[:, None].clone(), torch.ones(12, 1), ids)
    expected = core.compute_grpo_outcome_advantage(*arguments, epsilon=1e-6)[0][:, 0]
    out = group_advantage(rewards, torch.from_numpy(ids), eps=1e-6, backend=backend)
    torch.testing.assert_close(out, expected)
    arguments = (rewards[:, None].clone(), torch.ones(12, 1), ids)
    expected = core.compute_rloo_outcome_advantage(*arguments)[0][:, 0]
    out = group_advantage(
        rewards, torch.from_numpy(ids), scale="none", baseline="leave_one_out", backend=backend
    )
    torch.testing.assert_close(out, expected)
