"""fastrl inside TRL 1.16: our kernel behind its fused head, our trainer and rewards beside it.

    import fastrl.integrations.trl as fastrl_trl

    fastrl_trl.enable()                                   # any TRL trainer with a fused head
    trainer = GRPOTrainer(model, [fastrl_trl.answer_reward()], ...)

    trainer = fastrl_trl.FastGRPOTrainer(model, ...)      # one-pass loss, shared prefixes, dynamic sampling

The trainer needs no enable(); its update does not pass TRL's fused head.
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

_theirs: dict[str, Any] = {}
"""What stood in trl.trainer.utils before; empty while disabled."""


class Enabled:
    """Leaving the with-block disables."""

    def __enter__(self) -> Enabled:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        disable()


def enable(backend: Backend = "auto") -> Enabled:
    """Log-probs and entropies of TRL's trainers come from linear_logprob, whenever the trainers were made.

    Contract and results stay TRL's, but for: logits are float32, not rounded to the model's dtype; a tie
    counts as top-1; on a CPU only the tokens that have a label are scored, as TRL does on a GPU. What we have
    not (log_sum_sq_probs and mean_logits, of DPO's and KTO's options; DeepSpeed ZeRO-3, which takes the head
    apart before the backward) TRL computes itself, after one warning.

    Args:
        backend: of linear_logprob.
    Returns: a handle; `with enable():` disables at the end of the block.
    Raises:
        RuntimeError: TRL is not 1.16, or its fused head is not the one we know.
    """
    check_version()
    if not _theirs:
        check_fused_head(getattr(utils, HEAD, None), COMPACTS in vars(utils))
        _theirs.update({name: getattr(utils, name) for name in (HEAD, COMPACTS)})
    setattr(utils, HEAD, FusedHead(backend, _theirs[HEAD]))
    setattr(utils, COMPACTS, lambda device: device.type == "cpu" or _theirs[COMPACTS](device))
    return Enabled()


def disable() -> None:
    """TRL's own again. Nothing happens where it is."""
    for name, value in _theirs.items():
        setattr(utils, name, value)
    _theirs.clear()


class FusedHead:
    """Stands where TRL has an autograd function, and is called as that."""

    def __init__(self, backend: Backend, theirs: Any) -> None:
        self.backend, self.theirs = backend, theirs
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
        """[N, H], [V, H], [V], [N] -> log-probs, entropy, (not ours,) (not ours,) is_top1, each [N]."""
        if unserved := what_is_not_served(outputs):
            self._warn(unserved)
            theirs: Outputs = self.theirs.apply(
                hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping, logit_scale,
                outputs,
            )  # fmt: skip
            return theirs
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
            warnings.warn(f"[trl] fused head: fastrl does not serve {unserved}; TRL computes this itself")
            self.warned.add(unserved)


def what_is_not_served(outputs: tuple[str, ...]) -> str:
    """What is asked for that linear_logprob has not; empty where it has all."""
    if is_deepspeed_zero3_enabled():  # type: ignore[no-untyped-call]
        return "DeepSpeed ZeRO-3"
    return " and ".join(sorted(set(outputs) - SERVED))
