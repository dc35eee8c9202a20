"""GPU kernels of cut-cross-entropy (Apple), QuACK, RL-Kernel and flash-linear-attention."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from bench.competitors.base import Competitor, LogitsCase, Logprobs
from bench.inputs import Case


def cut_cross_entropy(filter_eps: str | None) -> Logprobs:
    """Load cut-cross-entropy; it has no temperature, so hidden is divided by it."""
    function = importlib.import_module("cut_cross_entropy").linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, None]:
        hidden = hidden if temperature == 1.0 else hidden / temperature
        return -function(hidden, weight, ids, reduction="none", filter_eps=filter_eps).float(), None

    return run


def quack_cross_entropy() -> Callable[[Case], Tensor]:
    """Load QuACK's cross-entropy, for speed only: it scales all rows alike, so it is no policy loss."""
    function = importlib.import_module("quack.linear_cross_entropy").chunked_linear_cross_entropy
    return lambda case: function(case.hidden, case.weight, case.ids, reduction="sum")


def rl_kernel() -> Logprobs:
    """Load RL-Kernel; it has no temperature, so hidden is divided by it."""
    operator = importlib.import_module("rl_engine.kernels.ops.triton.loss.linear_logp").TritonLinearLogpOp()

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, None]:
        hidden = hidden if temperature == 1.0 else hidden / temperature
        return operator(hidden, weight, ids).float(), None

    return run


def fla_grpo() -> Callable[[LogitsCase], Tensor]:
    """Load FLA's on-policy per-token losses; they need reference log-probs even if kl_coef is 0."""
    function = importlib.import_module("fla.modules.grpo").fused_grpo_loss

    def run(case: LogitsCase) -> Tensor:
        batch, coef = case.batch, case.config.kl_coef
        ref = case.padded(batch.get("ref_logprobs", batch["loss_mask"].new_zeros(case.ids.numel()).float()))
        mask = case.padded(batch["loss_mask"]).int()
        losses = function(case.logits, ref, case.ids, batch["advantages"], coef, mask)
        return losses.sum() / case.denominator  # type: ignore[no-any-return]

    return run


def on_gpu(name: str, package: str, load: Callable[[], Callable[..., Any]], **more: Any) -> Competitor:
    return Competitor(name=name, package=package, load=load, needs_cuda=True, **more)


HEAD = (
    on_gpu("cut-cross-entropy auto", "cut-cross-entropy", partial(cut_cross_entropy, "auto")),
    on_gpu("cut-cross-entropy unfiltered", "cut-cross-entropy", partial(cut_cross_entropy, None)),
    on_gpu("quack (CE only)", "quack-kernels", quack_cross_entropy, whole_loss=True, same_loss=False),
    on_gpu("rl-kernel Triton", "rl-kernel", rl_kernel),
)
LOGITS = (on_gpu("fla fused_grpo_loss", "fla-core", fla_grpo, whole_loss=True),)
