"""The learning rate of a step: warm-up, then constant, linear or cosine."""

from __future__ import annotations

import math

from fastrl.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a training step, counted from 0.

        step < W     peak * (step + 1) / W
        constant     peak
        linear       peak * (f + (1 - f) * (1 - d))
        cosine       peak * (f + (1 - f) * (1 + cos(pi * d)) / 2)

    peak is learning_rate, W warmup_steps, f min_lr_rate, and d = (step - W) / (num_steps - W), at most 1, the
    share of the steps after warm-up that are done.

    After warm-up this is transformers' get_scheduler at the same step. During warm-up it is one step ahead of
    it: there the first step has the rate 0, and its batch teaches nothing.
    """
    peak, floor = config.learning_rate, config.min_lr_rate
    if step < config.warmup_steps:
        return peak * ((step + 1) / config.warmup_steps)
    done = min(1.0, (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps))
    if config.lr_scheduler_type == "linear":
        return floor * peak + (1 - floor) * (peak * (1 - done))
    if config.lr_scheduler_type == "cosine":
        return floor * peak + (1 - floor) * (peak * 0.5 * (1 + math.cos(math.pi * done)))
    return peak
