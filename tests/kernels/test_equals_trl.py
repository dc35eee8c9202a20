"""TRL's own loss function and advantages, on the same numbers."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from fastrl.ops import LossConfig, group_advantage, grpo_loss

GRPOTrainer = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is not installed").GRPOTrainer
nanstd = pytest.importorskip("trl.trainer.utils").nanstd

LENGTHS = [3, 6, 1, 5]
CU = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32)
LONGEST = 6
NUM_TOKENS = sum(LENGTHS)


class OneProcess:
    """What the loss asks of accelerate, for one process."""

    num_processes = 1
    sync_gradients = True

    def gather(self, values):
        return values

    def reduce(self, values, reduction):
        return values


class Trainer:
    """The fields that GRPOTrainer._compute_loss reads, and TRL's methods unbound from a model."""

    get_off_policy_mask = GRPOTrainer.get_off_policy_mask
    get_gamma_weights = GRPOTrainer.get_gamma_weights
    _compute_loss = GRPOTrainer._compute_loss

    def __init__(self, config: LossConfig, logprobs, entropy) -> None:
        self.scores = (logprobs, entropy, None)
        self.loss_type = "grpo" if config.loss_type == "gspo" else config.loss_type
        self.importance_sampling_level = "sequence" if config.loss_type == "gspo" else "token"
        self.epsilon_low, self.epsilon_high = config.clip_eps_low, config.eps_high
        self.beta = config.kl_coef
        self.args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
        self.max_completion_length = LONGEST
        self.top_entropy_quantile = 1.0
        self.off_policy_mask_threshold = None
        self.aux_loss_enabled = self._entropy_bonus_enabled = self.use_adaptive_entropy = False
        self.use_vllm = self.vllm_importance_sampling_correction = config.correction != "none"
        self.current_gradient_accumulation_steps = 1
        self.accelerator = OneProcess()
        self.model = SimpleNamespace(training=True)
        self._metrics = {"train": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        return self.scores


def padded(values: torch.Tensor) -> torch.Tensor:
    rows = values.split(LENGTHS)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def trl_correction(old, rollout, mask, config) -> torch.Tensor:
    """Importance weights by TRL's rules; its own lines are in the middle of generation, not callable."""
    gap = (old - rollout) * mask
    if config.corrects_sequences:
        gap = gap.sum(-1, keepdim=True)
    weight = gap.exp()
    if config.correction.endswith("truncate"):
        return weight.clamp(max=config.correction_cap)
    return weight.masked_fill(weight > config.correction_cap, 0.0)


CASES = [
    (loss_type, correction)
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo")
    for correction in ("none", "token_truncate", "sequence_mask")
    # TRL differentiates the sequence's ratio as one, so a token's correction reaches its neighbours; ours and
    # verl's flow through each token.
    if (loss_type, correction) != ("gspo", "token_truncate")
]


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize(("loss_type", "correction"), CASES)
def test_loss_gradient_and_metrics(loss_type, correction, backend):
    config = LossConfig(
        loss_type=loss_type,
        clip_eps_high=1.2 if loss_type == "cispo" else 0.28,
        kl_coef=0.05,
        correction=correction,
        correction_cap=1.15,
    )
    logprobs, entropy = -torch.rand(NUM_TOKENS) * 3, torch.rand(NUM_TOKENS)
    old = logprobs + torch.randn(NUM_TOKENS) * 0.4
    ref, rollout = logprobs + torch.randn(NUM_TOKENS) * 0.4, old + torch.randn(NUM_TOKENS) * 0.2
    advantages = torch.tensor([1.0, -0.5, 0.3, -1.2])
    mask = padded(torch.ones(NUM_TOKENS))

    theirs = logprobs.clone().requires_grad_()
    inputs = {
        "prompt_ids": torch.zeros(4, 1, dtype=torch.int64),
        "prompt_mask": torch.ones(4, 1),
        "completion_ids": torch.zeros(4, LONGEST, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": padded(old),
        "ref_per_token_logps": padded(ref),
        "importance_sampling_ratio": trl_correction(padded(old), padded(rollout), mask, config),
        "num_items_in_batch": torch.tensor(NUM_TOKENS),
    }
    trainer = Trainer(config, padded(theirs), padded(entropy))
    expected = trainer._compute_loss(trainer.model, inputs)
    expected.backward()

    ours = logprobs.clone().requires_grad_()
    out = grpo_loss(
        ours,
        cu_seqlens=CU,
        advantages=advantages,
        loss_mask=torch.ones(NUM_TOKENS, dtype=torch.bool),
        old_logprobs=old,
        ref_logprobs=ref,
        rollout_logprobs=rollout,
        entropy=entropy,
        config=config,
        denominator=config.denominator(NUM_TOKENS, 4, LONGEST),
        backend=backend,
    )
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    per_token = {name: value.item() / NUM_TOKENS for name, value in out.stats.items()}
    assert per_token["entropy_sum"] == pytest.approx(metrics["entropy"], rel=1e-5)
    assert per_token["kl_sum"] == pytest.approx(metrics["kl"], rel=1e-4)
    if loss_type == "cispo":
        assert per_token["clip_high_sum"] == pytest.approx(metrics["cispo_clip_ratio"])
    elif loss_type != "gspo":  # where TRL counts sequences
        assert per_token["clip_low_sum"] == pytest.approx(metrics["clip_ratio/low_mean"])
        assert per_token["clip_high_sum"] == pytest.approx(metrics["clip_ratio/high_mean"])


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_advantages(backend):
    rewards = torch.rand(6, 4)
    ids = torch.arange(6).repeat_interleave(4)
    centred = rewards - rewards.mean(1, keepdim=True)
    spreads = {
        "std": nanstd(rewards, dim=1, keepdim=True) + 1e-4,
        "batch": nanstd(rewards) + 1e-4,
        "none": 1.0,
    }
    for scale, spread in spreads.items():
        out = group_advantage(rewards.flatten(), ids, scale=scale, backend=backend)
        torch.testing.assert_close(out, (centred / spread).flatten(), rtol=1e-5, atol=1e-6)
