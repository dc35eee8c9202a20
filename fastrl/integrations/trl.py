"""fastrl in TRL 1.16: fastrl's kernel as TRL's fused head, and fastrl's trainer and rewards.

    import fastrl.integrations.trl as fastrl_trl

    fastrl_trl.enable()                                   # any TRL trainer with a fused head
    trainer = GRPOTrainer(model, [fastrl_trl.answer_reward()], ...)

    trainer = fastrl_trl.FastGRPOTrainer(model, ...)      # one-pass loss, shared prefixes, dynamic sampling

FastGRPOTrainer needs no enable(): its update does not use TRL's fused head.
"""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.trainer import utils

from fastrl.integrations.rewards import answer_reward, format_reward, transfer_reward, uplift_reward
from fastrl.integrations.trl_options import check_fused_head, check_version
from fastrl.integrations.trl_trainer import FastGRPOTrainer
from fastrl.kernels._dispatch import Backend
from fastrl.ops import linear_logprob

__all__ = [
    "FastGRPOTrainer", "answer_reward", "disable", "enable", "format_reward", "transfer_reward",
    "uplift_reward",
]  # fmt: skip

HEAD, COMPACTS = "_ChunkedLogProbFunction", "_use_triton"
SERVED = {"log_probs", "entropy", "is_top1"}
Outputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]

_originals: dict[str, Any] = {}
"""TRL's own functions of trl.trainer.utils while enabled; empty while disabled."""


class Enabled:
    """A context manager that calls disable() at the end of the block."""

    def __enter__(self) -> Enabled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        disable()


def enable(backend: Backend = "auto") -> Enabled:
    """Let all TRL trainers compute log-probs and entropies with linear_logprob, also those already built.

    The interface and the results stay TRL's, with three exceptions. Logits are float32, not rounded to the
    model's dtype. A tie counts as top-1. On a CPU only tokens with a label are scored, as TRL does on a GPU.
    TRL's own head is used, after one warning, for the outputs log_sum_sq_probs and mean_logits (options of
    DPO and KTO) and with DeepSpeed ZeRO-3, which shards the head's weights again before the backward pass.

    Args:
        backend: backend of linear_logprob.
    Returns: a context manager; `with enable():` disables at the end of the block.
    Raises:
        RuntimeError: TRL is not 1.16, or its fused head has another signature.
    """
    check_version()
    if not _originals:
        check_fused_head(getattr(utils, HEAD, None), COMPACTS in vars(utils))
        _originals.update({name: getattr(utils, name) for name in (HEAD, COMPACTS)})
    setattr(utils, HEAD, FusedHead(backend, _originals[HEAD]))
    setattr(utils, COMPACTS, lambda device: device.type == "cpu" or _originals[COMPACTS](device))
    return Enabled()


def disable() -> None:
    """Restore TRL's own functions; does nothing if they are in place."""
    for name, value in _originals.items():
        setattr(utils, name, value)
    _originals.clear()


class FusedHead:
    """Replaces TRL's autograd function of the fused head; same `apply` signature."""

    def __init__(self, backend: Backend, original: Any) -> None:
        self.backend, self.original = backend, original
        self.warned: set[str] = set()

    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1"),
    ) -> Outputs:
        """Map [N, H], [V, H], [V], [N] to log-probs, entropy, None, None, is_top1, each [N].

        Unsupported outputs go to TRL's own function, after one warning.
        """
        if unserved := unsupported(outputs):
            self._warn(unserved)
            original: Outputs = self.original.apply(
                hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping, logit_scale,
                outputs,
            )  # fmt: skip
            return original
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            out = linear_logprob(
                hidden.to(dtype),
                weight,
                targets,
                bias=bias,
                temperature=temperature,
                logit_scale=logit_scale,
                softcap=final_logit_softcapping,
                backend=self.backend,
            )
        entropy = out.entropy if "entropy" in outputs else None
        return out.logprobs, entropy, None, None, out.top1 if "is_top1" in outputs else None

    def _warn(self, unserved: str) -> None:
        if unserved not in self.warned:
            warnings.warn(f"[trl] fused head: fastrl does not support {unserved}; TRL's own head is used")
            self.warned.add(unserved)


def unsupported(outputs: tuple[str, ...]) -> str:
    """Return the names of requested features that linear_logprob lacks; "" if it has all."""
    if is_deepspeed_zero3_enabled():  # type: ignore[no-untyped-call]
        return "DeepSpeed ZeRO-3"
    return " and ".join(sorted(set(outputs) - SERVED))
