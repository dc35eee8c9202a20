"""Liger: the fused linear GRPO loss, the scaled cross-entropy for Hopper, and the Triton losses.

Arguments that Liger names differently are passed by position.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.competitors.base import Competitor, LogitsCase, Logprobs
from bench.inputs import Case
from fastrl.ops import LossConfig

LOSS_TYPES = {"dapo": "dapo", "cispo": "cispo", "grpo": "grpo", "gspo": "grpo"}


def fused_grpo(chunk_size: int, compiled: bool) -> Callable[[Case], Tensor]:
    """Load the fused loss on [S, L]: `chunk_size` sequences at a time, gradients computed in the forward."""
    module = importlib.import_module("liger_kernel.chunked_loss")

    def run(case: Case) -> Tensor:
        config, batch = case.config, case.batch
        loss = module.LigerFusedLinearGRPOLoss(
            config.kl_coef,
            compiled,
            config.kl_coef != 0,
            chunk_size,
            config.clip_eps_low,
            config.eps_high,
            **shared(config),
            temperature=case.temperature,
        )
        old, ref, rollout = (
            case.padded(batch[name]) if name in batch else None
            for name in ("old_logprobs", "ref_logprobs", "rollout_logprobs")
        )
        return loss(  # type: ignore[no-any-return]
            case.padded(case.hidden),
            case.weight,
            case.padded(case.ids),
            case.padded(batch["loss_mask"]).float(),
            batch["advantages"],
            None,
            ref,
            old,
            vllm_is_ratio=correction(old, rollout, config),
            num_items_in_batch=case.denominator,
        )[0]

    return run


def shared(config: LossConfig) -> dict[str, Any]:
    level = "sequence" if config.loss_type == "gspo" else "token"
    return {"loss_type": LOSS_TYPES[config.loss_type], "importance_sampling_level": level}


def correction(old: Tensor | None, rollout: Tensor | None, config: LossConfig) -> Tensor | None:
    """Return the token weights of `correction="token_truncate"`; Liger expects them precomputed."""
    if old is None or rollout is None:
        return None
    return torch.exp(old - rollout).clamp(max=config.correction_cap)


def scaled_cross_entropy() -> Logprobs:
    """Load the scaled cross-entropy: a CuTe kernel on Hopper (imported now), elsewhere verl's loop."""
    module = importlib.import_module("liger_kernel.ops.fused_linear_scaled_cross_entropy")
    module._resolve_implementation(torch.device("cuda"))
    function = module.LigerFusedLinearScaledCrossEntropyFunction

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        nll, entropy = function.apply(hidden, weight, ids, temperature, -100, 1, True)
        return -nll, entropy

    return run


def cross_entropy_sum() -> Callable[[Case], Tensor]:
    """Load the Triton cross-entropy, for speed only: it scales all rows alike, so it is no policy loss."""
    module = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    function = module.LigerFusedLinearCrossEntropyFunction

    def run(case: Case) -> Tensor:
        arguments = (None, None, -100, 0.0, 0.0, "sum")
        return function.apply(case.hidden, case.weight, case.ids, *arguments)[0]  # type: ignore[no-any-return]

    return run


def triton_grpo(in_place: bool) -> Callable[[LogitsCase], Tensor]:
    function = importlib.import_module("liger_kernel.transformers.grpo_loss").triton_grpo_loss

    def run(case: LogitsCase) -> Tensor:
        config, batch = case.config, case.batch
        old, ref = (
            case.padded(batch[name]) if name in batch else None for name in ("old_logprobs", "ref_logprobs")
        )
        mask = case.padded(batch["loss_mask"]).int()
        loss, _ = function(
            case.logits,
            old,
            ref,
            case.ids,
            batch["advantages"],
            mask,
            1.0,
            config.kl_coef,
            config.clip_eps_low,
            config.eps_high,
            in_place,
            **shared(config),
            reduce=True,
            num_items_in_batch=case.denominator,
        )
        return loss  # type: ignore[no-any-return]

    return run


def on_gpu(name: str, load: Callable[[], Callable[..., Any]], **more: Any) -> Competitor:
    return Competitor(name=name, package="liger-kernel", load=load, needs_cuda=True, **more)


HEAD = (
    Competitor(
        name="liger fused GRPO",
        package="liger-kernel",
        load=partial(fused_grpo, 1, False),
        whole_loss=True,
    ),
    *(
        on_gpu(
            f"liger fused GRPO compiled, chunk {chunk}{', TF32' if tf32 else ''}",
            partial(fused_grpo, chunk, True),
            whole_loss=True,
            compiled=True,
            tf32=tf32,
        )
        for chunk in (1, 8)
        for tf32 in (False, True)
    ),
    on_gpu("liger scaled CE", scaled_cross_entropy),
    on_gpu("liger FLCE (CE only)", cross_entropy_sum, whole_loss=True, same_loss=False),
)
LOGITS = (
    on_gpu("liger triton_grpo_loss", partial(triton_grpo, False), whole_loss=True),
    on_gpu("liger triton_grpo_loss, in place", partial(triton_grpo, True), whole_loss=True, in_place=True),
)
