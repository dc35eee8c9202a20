"""AdamW, and its state as named tensors, so that a checkpoint holds no pickle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastrl.config import TrainConfig
from fastrl.policy.model import Policy

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def make_optimizer(policy: Policy, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable weights; norms and biases are not decayed."""
    decayed = [p for p in policy.parameters() if p.ndim >= 2]
    plain = [p for p in policy.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """lr * min(1, (step + 1) / warmup_steps)."""
    return config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


def apply_gradients(
    policy: Policy, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int
) -> float:
    """One optimiser step with the gradients clipped; returns their norm before. Refuses NaN and infinity."""
    norm = float(torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm))
    if not norm < float("inf"):
        raise FloatingPointError(
            f"[train] gradient norm is {norm} at step {step}: no weight was changed. Lower "
            "train.learning_rate, or look at the last logged completions; the last checkpoint is intact"
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm


def optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`<parameter>/<moment>` -> tensor."""
    tensors = {}
    for name, parameter in policy.model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{moment}"] = value
    return tensors


def restore_optimizer(
    policy: Policy, optimizer: torch.optim.Optimizer, read: Callable[[str], Tensor], names: set[str]
) -> None:
    """The inverse of optimizer_tensors; `read` gives a saved tensor by name."""
    for name, parameter in policy.model.named_parameters():
        saved = {moment: f"{name}/{moment}" for moment in MOMENTS if f"{name}/{moment}" in names}
        if saved:
            optimizer.state[parameter] = {m: read(key).to(parameter.device) for m, key in saved.items()}
