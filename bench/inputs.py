"""Inputs of the loss benches: random or trained-like heads, packed sequences, tokens without gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastrl.ops import LossConfig

DISTRIBUTIONS = ("random", "trained")
MASKS = ("dense", "realistic", "zero-advantage")
IDLE_SHARE = 0.45
"""Share of tokens without gradient under the realistic mask."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy loss and the extra log-probs (old, reference, rollout) it needs."""

    config: LossConfig
    given: tuple[str, ...] = ()
    temperature: float = 1.0


VARIANTS: Mapping[str, Variant] = {
    "dapo": Variant(LossConfig()),
    "dapo-kl": Variant(LossConfig(kl_coef=0.04), ("ref_logprobs",)),
    "dapo-tis": Variant(LossConfig(), ("old_logprobs", "rollout_logprobs")),
    "gspo": Variant(LossConfig(loss_type="gspo"), ("old_logprobs",)),
    "cispo": Variant(LossConfig(loss_type="cispo"), ("old_logprobs",)),
    "temperature": Variant(LossConfig(), temperature=0.7),
}


@dataclass(frozen=True, slots=True)
class Case:
    """Input of one call. Sequences are equally long, so [S, L] layouts are views of the packed one."""

    hidden: Tensor
    weight: Tensor
    ids: Tensor
    batch: dict[str, Tensor]
    config: LossConfig
    denominator: float
    temperature: float

    @property
    def num_sequences(self) -> int:
        return len(self.batch["cu_seqlens"]) - 1

    def padded(self, values: Tensor) -> Tensor:
        """View [T, ...] as [S, L, ...]."""
        return values.view(self.num_sequences, -1, *values.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSpec:
    """Recipe of a case; plain names and numbers, so that another process can build the same case."""

    tokens: int
    width: int
    vocab: int
    dtype: str = "float32"
    num_sequences: int = 8
    distribution: str = "random"
    mask: str = "dense"
    variant: str = "dapo"
    device: str = "cpu"
    seed: int = 0

    def __str__(self) -> str:
        shape = f"T={self.tokens} D={self.width} V={self.vocab} {self.dtype}"
        return f"{shape}, {self.distribution}, {self.mask}, {self.variant}"

    def with_tokens(self, tokens: int) -> CaseSpec:
        """Return a spec with at most `tokens` tokens in sequences of one length."""
        sequences = min(self.num_sequences, tokens)
        return replace(self, tokens=tokens // sequences * sequences, num_sequences=sequences)

    def build(self) -> Case:
        torch.manual_seed(self.seed)
        dtype, device = getattr(torch, self.dtype), torch.device(self.device)
        make = trained_inputs if self.distribution == "trained" else head_inputs
        hidden, weight, ids = make(self.tokens, self.width, self.vocab, dtype, device)
        variant = VARIANTS[self.variant]
        batch = packed_batch(self.tokens, self.num_sequences, self.mask, device)
        if variant.given:
            now = logprobs_of(hidden.detach(), weight.detach(), ids, variant.temperature)
            batch |= {name: now + 0.05 * torch.randn_like(now) for name in variant.given}
        trained = int(batch["loss_mask"].sum())
        longest = self.tokens // self.num_sequences
        denominator = variant.config.denominator(trained, self.num_sequences, longest)
        return Case(hidden, weight, ids, batch, variant.config, denominator, variant.temperature)


def packed_batch(
    num_tokens: int, num_sequences: int, mask: str, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return a batch of equally long sequences; "zero-advantage" removes every second one's gradient."""
    length = num_tokens // num_sequences
    advantages = torch.randn(num_sequences, device=device)
    loss_mask = torch.ones(num_sequences, length, dtype=torch.bool, device=device)
    if mask == "realistic":
        loss_mask = realistic_mask(num_sequences, length).to(device)
    elif mask == "zero-advantage":
        advantages[1::2] = 0.0
    elif mask != "dense":
        raise ValueError(f"[bench] mask: expected one of {MASKS}, got {mask!r}")
    ends = torch.arange(0, num_tokens + 1, length, dtype=torch.int32, device=device)
    return {"cu_seqlens": ends, "advantages": advantages, "loss_mask": loss_mask.flatten()}


def realistic_mask(num_sequences: int, length: int) -> Tensor:
    """Return a loss mask [S, L]: prompts fill the first quarter, completion lengths are lognormal.

    IDLE_SHARE of all tokens are masked.
    """
    prompt = length // 4
    quantiles = (torch.arange(num_sequences) + 0.5) / num_sequences
    shape = torch.exp(0.6 * torch.special.ndtri(quantiles))[torch.randperm(num_sequences)]
    low, high = 0.0, 64.0 * length
    for _ in range(60):
        scale = (low + high) / 2
        trained = (scale * shape).clamp(1, length - prompt).mean()
        low, high = (scale, high) if trained < (1 - IDLE_SHARE) * length else (low, scale)
    ends = prompt + (low * shape).clamp(1, length - prompt).round()
    position = torch.arange(length)
    return (position >= prompt) & (position < ends[:, None])


def head_inputs(
    num_tokens: int, width: int, vocab: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return independent random hidden states, weight and ids: log-probs near -log(vocab)."""
    hidden = torch.randn(num_tokens, width, device=device).to(dtype).requires_grad_()
    weight = (torch.randn(vocab, width, device=device) * 0.02).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocab, (num_tokens,), device=device)


def trained_inputs(
    num_tokens: int, width: int, vocab: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs like a trained model's own samples: mean log-prob near -0.3, 85 % of tokens are top-1.

    Each hidden state combines the weight rows of its token and of a rival token. The two logits are a sampled
    margin apart, and both are far above the rest of the vocabulary.
    """
    weight = (torch.randn(vocab, width, device=device) * 0.02).to(dtype)
    ids = torch.randint(0, vocab, (num_tokens,), device=device)
    rivals = (ids + torch.randint(1, vocab, (num_tokens,), device=device)) % vocab
    own, rival = weight[ids].float(), weight[rivals].float()
    floor = math.log(vocab) + 6.0
    rows = torch.stack([own, rival], 1)
    wanted = torch.stack([floor + margins(num_tokens).to(device), torch.full_like(own[:, 0], floor)], 1)
    parts = torch.linalg.solve(rows @ rows.mT, wanted)
    hidden = (parts[:, None] @ rows)[:, 0].to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), ids


def margins(num_tokens: int) -> Tensor:
    """Draw the token's logit minus its rival's: 15 % negative, 25 % slightly positive, 60 % large.

    For a third of the large ones, 1 - p is below 1e-6.
    """
    rank = (torch.randperm(num_tokens) + 0.5) / num_tokens
    draw = torch.rand(num_tokens)
    lost, narrow, sure = 1.1 * torch.log1p(-draw), 3 * draw, 4 + 16 * draw
    return torch.where(rank < 0.15, lost, torch.where(rank < 0.4, narrow, sure))


@torch.no_grad()
def logprobs_of(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Return float32 log-probs, computed 256 rows at a time."""
    found = []
    for rows, targets in zip(hidden.split(256), ids.split(256), strict=True):
        logits = (rows @ weight.T).float() / temperature
        found.append(torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0])
    return torch.cat(found)
