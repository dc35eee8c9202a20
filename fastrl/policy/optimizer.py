"""AdamW, and its state as named tensors, so that checkpoints need no pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastrl.config import TrainConfig, refuse
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.eight_bit import CODES, SCALE, adamw_8bit, from_pieces, pieces
from fastrl.policy.model import Policy
from fastrl.policy.schedule import learning_rate
from fastrl.policy.shard import gather, read_like

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def make_optimizer(policy: Policy, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW over the trainable weights, in one fused kernel or with 8-bit moments (train.optim).

        m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  t = optimiser steps so far
        w = w - lr (decay w + (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps))

    b1, b2 and eps are adam_beta1, adam_beta2 and adam_epsilon; lr is learning_rate(step), and decay is 0 for
    the weights of no_weight_decay.

    Raises:
        ValueError: a pattern of train.no_decay finds no trainable weight, or torchao is missing.
    """
    named = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    plain = no_weight_decay({name: p.ndim for name, p in named.items()}, config.no_decay)
    groups = [
        {"params": [p for n, p in named.items() if n not in plain], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named.items() if n in plain], "weight_decay": 0.0},
    ]
    if config.optim == "adamw_torch_8bit":
        return adamw_8bit(groups, config)
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def no_weight_decay(dimensions: Mapping[str, int], patterns: Sequence[str]) -> set[str]:
    """Return the names of the weights without weight decay: one dimension, or a pattern finds the name.

    Args:
        dimensions: number of dimensions of each trainable weight, by name.
        patterns: regular expressions (train.no_decay).
    Raises:
        ValueError: a pattern finds no weight.
    """
    found = {name for name, ndim in dimensions.items() if ndim < 2}
    for pattern in patterns:
        matching = {name for name in dimensions if re.search(pattern, name)}
        if not matching:
            example = ", ".join(list(dimensions)[:3])
            refuse("train", "no_decay", f"patterns of trainable weights, such as {example}", pattern)
        found |= matching
    return found


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
        if isinstance(group["lr"], Tensor):  # torchao's
            group["lr"].fill_(learning_rate(step, config))
        else:
            group["lr"] = learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm


def optimizer_tensors(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return {"<parameter>/<moment>": tensor}, sharded like its parameter; an 8-bit moment is two tensors."""
    policy.reshard()
    tensors: dict[str, Tensor] = {}
    for name, parameter in policy.model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors |= {f"{name}/{moment}{suffix}": tensor for suffix, tensor in pieces(value).items()}
    return tensors


def restore_optimizer(policy: Policy, optimizer: torch.optim.Optimizer, file: Any) -> None:
    """Load the optimiser's state from an open safetensors file of optimizer_tensors."""
    policy.reshard()
    names = set(file.keys())
    for name, parameter in policy.model.named_parameters():
        state: dict[str, Tensor] = {}
        for moment in MOMENTS:
            key = f"{name}/{moment}"
            if key in names:
                state[moment] = read_like(parameter, file, key)
            elif key + CODES in names:
                parts = {suffix: read_like(parameter, file, key + suffix) for suffix in (CODES, SCALE)}
                state[moment] = from_pieces(moment, parts)
        if state:
            optimizer.state[parameter] = state
