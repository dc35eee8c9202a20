"""AdamW, and its state as named tensors, so that checkpoints need no pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastrl.config import TrainConfig
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.model import Policy
from fastrl.policy.shard import gather, read_like

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def make_optimizer(policy: Policy, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW over the trainable weights; tensors with one dimension get no weight decay."""
    decayed = [p for p in policy.parameters() if p.ndim >= 2]
    plain = [p for p in policy.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return learning_rate * min(1, (step + 1) / warmup_steps)."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def apply_gradients(
    policy: Policy, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int,
    bad_steps: BadSteps | None = None,
) -> float:  # fmt: skip
    """Clip the gradients and take an optimiser step; return the norm before clipping. One host sync.

    A bad gradient is skipped. Raises FloatingPointError if there are too many (BadSteps.skips).
    """
    policy.reshard()
    for parameter in policy.parameters():
        if parameter.grad is None:
            # None only before the first gradient of this process; 0 makes a resumed run equal
            parameter.grad = torch.zeros_like(parameter)
    clipped = torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
    norm = float(gather(clipped, policy.device))
    if (bad_steps or BadSteps(config)).skips(norm, step):
        optimizer.zero_grad(set_to_none=False)
        return norm
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm


def optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return {"<parameter>/<moment>": tensor}, sharded like its parameter."""
    policy.reshard()
    tensors = {}
    for name, parameter in policy.model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{moment}"] = value
    return tensors


def restore_optimizer(policy: Policy, optimizer: torch.optim.Optimizer, file: Any) -> None:
    """Load the optimiser's state from an open safetensors file of optimizer_tensors."""
    policy.reshard()
    names = set(file.keys())
    for name, parameter in policy.model.named_parameters():
        saved = {moment: f"{name}/{moment}" for moment in MOMENTS if f"{name}/{moment}" in names}
        if saved:
            optimizer.state[parameter] = {m: read_like(parameter, file, key) for m, key in saved.items()}
