"""fastrl's losses equal Liger 0.8.5's fused linear GRPO loss on the same hidden states and head.

Compared: loss types grpo, bnpo, dr_grpo, dapo, cispo; importance_sampling_level "sequence" with grpo (gspo);
beta with reference log-probs or a reference head, use_bias_correction_kl, delta, temperature, bias,
vllm_is_ratio, a frozen head.
Only in Liger: sapo, luspo, vespo; sequence ratios with other loss types.

Differences:
- Liger's sequences are padded, with masked tokens in the middle and at the end; ours are packed, with
  loss_mask.
- Liger sums over chunks of sequences; bnpo, dapo and cispo divide by the tokens of the whole call, grpo by
  the sequences, dr_grpo by sequences * max_completion_length. LossConfig.denominator gives the same.
- vllm_is_ratio is a ready weight, computed here from rollout log-probs by fastrl's documented rule.
- Liger differentiates a sequence ratio as a whole, fastrl through each token. The gradients are equal except
  with token weights; then only the losses are compared.
- delta caps the ratio for both signs of the advantage, dual_clip for negative ones. Both are equal for
  delta >= 1 + epsilon_high, since a positive advantage is clipped there already.
- Without old log-probs both take the ratio as 1 and keep its gradient.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from fastrl.ops import LossConfig, linear_grpo_loss

liger = pytest.importorskip("liger_kernel.chunked_loss.grpo_loss", reason="liger-kernel is not installed")

LENGTHS = [3, 7, 1, 5]
NUM_TOKENS, LONGEST, HIDDEN, VOCAB = sum(LENGTHS), max(LENGTHS), 16, 40
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo")
BACKENDS = ("cpp", "torch", "reference")


def padded(values: torch.Tensor) -> torch.Tensor:
    return pad_sequence(values.split(LENGTHS), batch_first=True)


class Case:
    """One batch, and both losses of it."""

    def __init__(self, loss_type: str, **options) -> None:
        self.config = LossConfig(
            loss_type=loss_type, **{"clip_eps_high": 1.2 if loss_type == "cispo" else 0.28, **options}
        )
        self.hidden, self.weight = torch.randn(NUM_TOKENS, HIDDEN), torch.randn(VOCAB, HIDDEN) * 0.3
        self.ref_hidden, self.ref_weight = (
            self.hidden + 0.3 * torch.randn(NUM_TOKENS, HIDDEN),
            self.weight * 0.9,
        )
        self.bias = None
        self.ids = torch.randint(VOCAB, (NUM_TOKENS,))
        self.mask = torch.ones(NUM_TOKENS, dtype=torch.bool)
        self.mask[[4, 5, 14]] = False
        self.advantages = torch.tensor([1.5, -0.4, 1.1, 0.8])  # the loss must not cancel to nothing
        self.old = self.logprobs(self.hidden, self.weight) + 0.4 * torch.randn(NUM_TOKENS)
        self.rollout = None
        self.temperature = 0.8

    def logprobs(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        scores = (hidden @ weight.T / 0.8).log_softmax(-1)
        return scores.gather(1, self.ids[:, None])[:, 0]

    def rollout_weights(self) -> torch.Tensor | None:
        if self.rollout is None:
            return None
        gap, mask = padded(self.old - self.rollout), padded(self.mask)
        if self.config.corrects_sequences:
            gap = (gap * mask).sum(1, keepdim=True)
        weights, cap = gap.exp(), self.config.correction_cap
        return weights.clamp(max=cap) if "truncate" in self.config.correction else weights * (weights <= cap)

    def theirs(self, ref: str = "logprobs", chunk_size: int = 1, frozen: bool = False):
        config = self.config
        leaves = [self.hidden.clone().requires_grad_(), self.weight.clone().requires_grad_(not frozen)]
        function = liger.LigerFusedLinearGRPOLoss(
            beta=config.kl_coef,
            compiled=False,
            use_ref_model=config.kl_coef != 0,
            chunk_size=chunk_size,
            epsilon_low=config.clip_eps_low,
            epsilon_high=config.eps_high,
            loss_type="grpo" if config.loss_type == "gspo" else config.loss_type,
            importance_sampling_level="sequence" if config.loss_type == "gspo" else "token",
            max_completion_length=LONGEST + 3,
            temperature=self.temperature,
            delta=config.dual_clip,
            use_bias_correction_kl=config.kl_ratio,
        )
        reference = {}
        if config.kl_coef and ref == "logprobs":
            reference["ref_per_token_logps"] = padded(self.logprobs(self.ref_hidden, self.ref_weight))
        elif config.kl_coef:
            reference |= {"ref_input": padded(self.ref_hidden), "ref_weight": self.ref_weight}
        loss, _ = function(
            padded(leaves[0]),
            leaves[1],
            padded(self.ids),
            padded(self.mask).float(),
            self.advantages,
            bias=self.bias,
            old_per_token_logps=None if self.old is None else padded(self.old),
            vllm_is_ratio=self.rollout_weights(),
            **reference,
        )
        loss.backward()
        return loss, [leaf.grad for leaf in leaves if leaf.requires_grad]

    def ours(self, backend: str, frozen: bool = False):
        config = self.config
        leaves = [self.hidden.clone().requires_grad_(), self.weight.clone().requires_grad_(not frozen)]
        lengths = torch.tensor([0, *LENGTHS])
        out = linear_grpo_loss(
            *leaves,
            self.ids,
            cu_seqlens=lengths.cumsum(0).int(),
            advantages=self.advantages,
            loss_mask=self.mask,
            old_logprobs=self.old,
            ref_logprobs=self.logprobs(self.ref_hidden, self.ref_weight) if config.kl_coef else None,
            rollout_logprobs=self.rollout,
            config=config,
            denominator=config.denominator(int(self.mask.sum()), len(LENGTHS), LONGEST + 3),
            bias=self.bias,
            temperature=self.temperature,
            backend=backend,
        )
        out.loss.backward()
        return out, [leaf.grad for leaf in leaves if leaf.requires_grad]

    def check(self, backend: str, frozen: bool = False, only_loss: bool = False, **options):
        loss, gradients = self.theirs(frozen=frozen, **options)
        out, ours = self.ours(backend, frozen)
        assert out.loss.item() == pytest.approx(loss.item(), rel=1e-6)
        if only_loss:
            return out.stats
        assert len(ours) == len(gradients) == 2 - frozen
        for mine, expected in zip(ours, gradients, strict=True):
            assert (mine - expected).norm() <= 1e-5 * expected.norm()
        return out.stats


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_every_loss_type(loss_type, kl_coef, backend):
    stats = Case(loss_type, kl_coef=kl_coef).check(backend)
    assert stats["clip_low_sum"] + stats["clip_high_sum"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_kl_times_ratio(loss_type, backend):
    """gspo's gradient is compared without it: Liger's flows through the sequence, ours through each token."""
    Case(loss_type, kl_coef=0.1, kl_ratio=True).check(backend, only_loss=loss_type == "gspo")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", LOSSES)
def test_on_policy(loss_type, backend):
    case = Case(loss_type, kl_coef=0.1)
    case.old = None
    case.check(backend, chunk_size=2)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_reference_head(loss_type):
    """Liger makes the reference's log-probs itself."""
    Case(loss_type, kl_coef=0.1).check("cpp", ref="head")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss_type", [name for name in LOSSES if name != "cispo"])
def test_delta(loss_type, backend):
    case = Case(loss_type, dual_clip=1.3)
    case.old -= 0.5
    case.check(backend)
    bounded = case.ours(backend)[0].loss.item()
    case.config = LossConfig(loss_type=loss_type, clip_eps_high=0.28)
    assert bounded < case.ours(backend)[0].loss.item()  # delta binds


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_vllm_is_ratio(loss_type, mode, backend):
    case = Case(loss_type, kl_coef=0.1, correction=mode, correction_cap=1.125)
    case.rollout = case.old + 0.2 * torch.randn(NUM_TOKENS)
    stats = case.check(backend, only_loss=loss_type == "gspo" and mode.startswith("token"))
    assert stats["correction_max"] <= 1.125 and stats["correction_min"] != stats["correction_max"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bias_and_a_frozen_head(backend):
    case = Case("dapo", kl_coef=0.1)
    case.bias = torch.randn(VOCAB) * 0.3
    case.check(backend, frozen=True)
