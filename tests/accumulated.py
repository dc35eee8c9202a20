"""Rollouts with known advantages, and the gradient that a step of them accumulates."""

from __future__ import annotations

from pathlib import Path

import torch

from fastrl.config import ModelConfig, RlConfig
from fastrl.policy.model import Policy
from fastrl.runtime.distributed import Ranks
from fastrl.training.update import accumulate_gradients, carries_gradient
from fastrl.types import Rollout


def rollouts(vocab: int, advantages=(1.0, -0.5, 0.0, 2.0, -1.5, 0.25)) -> list[Rollout]:
    """Pairs of a group, each longer than the one before, with log-probs of an engine that is off by 0.1."""
    generator = torch.Generator().manual_seed(3)

    def draw(n: int) -> list[int]:
        return torch.randint(4, vocab, (n,), generator=generator).tolist()

    out = []
    for i, advantage in enumerate(advantages):
        completion = draw(3 + 7 * i)
        noise = (torch.rand(len(completion), generator=generator) * 0.2 - 5.6).tolist()
        out.append(Rollout(draw(4 + i), completion, noise, "", "stop", group=i // 2, advantage=advantage))
    return out


def gradients(
    path: Path, config: RlConfig, todo: list[Rollout], old_noise: float = 0.1
) -> list[torch.Tensor]:
    """Return the gradients that one batch of these rollouts leaves in the policy's weights."""
    policy = Policy.load(ModelConfig(path=str(path)), torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    old = [torch.randn(len(r.completion_ids), generator=generator) * old_noise - 5.5 for r in todo]
    accumulate_gradients(policy, todo, range(len(todo)), old, old, config, Ranks(), stats := {})
    assert stats["num_tokens_sum"] == sum(len(r.completion_ids) for r in todo if carries_gradient(r, config))
    return [p.grad for p in policy.parameters() if p.grad is not None]
