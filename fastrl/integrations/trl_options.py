"""Checks TRL's version and the options of GRPOConfig that FastGRPOTrainer supports."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

from fastrl.config import refuse
from fastrl.ops import LossConfig

KNOWN = "1.16."
HEAD_PARAMETERS = (
    "ctx", "hidden", "weight", "bias", "targets", "temperature", "chunk_size", "final_logit_softcapping",
    "logit_scale", "outputs",
)  # fmt: skip
LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo")
PER_MICROBATCH = ("grpo", "bnpo", "dr_grpo")
"""Loss types that TRL averages within a micro-batch, and then over the step's micro-batches."""


def check_version() -> None:
    """Raise RuntimeError if TRL is not a supported release."""
    found = version("trl")
    if not found.startswith(KNOWN):
        raise RuntimeError(f"[trl] version: expected {KNOWN}x, got {found}; pip install 'trl>=1.16,<1.17'")


def check_fused_head(function: Any, compacts: bool) -> None:
    """Raise RuntimeError if TRL's fused head has another signature than FusedHead."""
    found = None if function is None else tuple(inspect.signature(function.forward).parameters)
    if found != HEAD_PARAMETERS or not compacts:
        raise RuntimeError(f"[trl] fused head: expected {', '.join(HEAD_PARAMETERS)}, got {found}")


def check_options(args: Any, max_refills: int) -> None:
    """Raise ValueError naming an option of a GRPOConfig that FastGRPOTrainer does not support."""

    def expect(name: str, fits: bool, expected: str) -> None:
        if not fits:
            refuse("trl", name, f"{expected} in FastGRPOTrainer", getattr(args, name))

    sequences = args.importance_sampling_level == "sequence"
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    expect("loss_type", args.loss_type in LOSS_TYPES, " or ".join(LOSS_TYPES))
    expect("importance_sampling_level", not sequences or args.loss_type == "grpo", "token, but for grpo")
    plain = not (sequences and args.beta and args.use_bias_correction_kl)
    expect("use_bias_correction_kl", plain, "false where a KL meets ratios of sequences")
    expect("epsilon_high", args.loss_type != "cispo" or high >= 1, ">= 1 for cispo, whose weight it bounds")
    clips = args.loss_type == "cispo" or args.delta is None or args.delta > 1 + high
    expect("delta", clips, "more than 1 + epsilon_high")
    expect("entropy_coef", not args.entropy_coef or args.loss_type != "grpo", "0 for grpo")
    expect("use_adaptive_entropy", not args.use_adaptive_entropy, "false")
    expect("top_entropy_quantile", args.top_entropy_quantile == 1, "1")
    expect("off_policy_mask_threshold", args.off_policy_mask_threshold is None, "none")
    expect("vllm_importance_sampling_clip_min", args.vllm_importance_sampling_clip_min is None, "none")
    expect("use_transformers_continuous_batching", not args.use_transformers_continuous_batching, "false")
    expect("torch_compile", not args.torch_compile, "false")
    expect("deepspeed", not args.deepspeed, "none (one GPU, or data parallel)")
    expect("fsdp", not args.fsdp, "none (one GPU, or data parallel)")
    expect("n_gpu", args.n_gpu <= 1, "one GPU a process (accelerate launch)")
    if max_refills < 0:
        refuse("trl", "max_refills", ">= 0", max_refills)
    if max_refills:
        aggregation = "multi_objective_aggregation"
        expect(aggregation, getattr(args, aggregation) == "sum_then_normalize", "sum_then_normalize")
        whole = args.per_device_train_batch_size * args.steps_per_generation % args.num_generations == 0
        expect("num_generations", whole, "a divisor of a process's rows, since groups are drawn again,")


def loss_config(trainer: Any) -> LossConfig:
    """Return the trainer's loss options without the entropy bonus: its weight depends on the micro-batch."""
    args = trainer.args
    sequences = args.importance_sampling_level == "sequence"
    cispo = args.loss_type == "cispo"
    corrects = trainer.use_vllm and args.vllm_importance_sampling_correction
    cap = args.vllm_importance_sampling_clip_max
    return LossConfig(
        loss_type="gspo" if sequences else args.loss_type,
        clip_eps_low=trainer.epsilon_low,
        clip_eps_high=trainer.epsilon_high,
        dual_clip=None if cispo else args.delta,
        kl_coef=args.beta,
        kl_ratio=args.use_bias_correction_kl,
        correction=args.vllm_importance_sampling_mode if corrects else "none",
        correction_cap=float("inf") if cap is None else cap,
    )


def denominator(trainer: Any, inputs: dict[str, Any], num_trained: int) -> float:
    """Return the denominator that makes a micro-batch's summed loss equal TRL's, scaled for accumulation.

    Args:
        num_trained: number of the micro-batch's tokens in the loss.
    """
    training, args = trainer.model.training, trainer.args
    accumulated = trainer.current_gradient_accumulation_steps if training else 1
    rows = len(inputs["completion_ids"])
    if args.loss_type == "grpo":
        return float(rows * accumulated)
    if args.loss_type == "bnpo":
        return float(max(1, num_trained) * accumulated)
    if args.loss_type == "dr_grpo":
        return float(rows * trainer.max_completion_length * accumulated)
    tokens = max(1.0, float(inputs["num_items_in_batch"])) / trainer.accelerator.num_processes
    return float(tokens * accumulated / args.steps_per_generation) if training else tokens
