"""Options of the engines that generate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import check_positive, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The engine that generates from a model."""

    kind: Literal["torch", "vllm", "same"] = "torch"
    """torch: the embedded engine, for any Hugging Face decoder. vllm: vLLM in this process, if installed.
    same: all options of the engine section; for the engines of rewards."""
    max_batch_tokens: int = 65536
    """> 0; tokens of KV cache for the requests that run at once. Further requests wait."""
    device: str = "auto"
    """auto: the run's device. Or a separate device, such as cpu or cuda:1, the same on every rank."""
    sleep: bool = False
    """Free the engine's GPU memory while it is idle, so that a policy and a receiver fit on one GPU."""
    enforce_eager: bool = False
    """vllm: run without CUDA graphs. Starts faster, decodes slower."""

    def __post_init__(self) -> None:
        check_positive("engine", self, "max_batch_tokens")
        if self.kind == "torch" and self.enforce_eager:
            refuse("engine", "enforce_eager", "false, since kind torch has no such choice", True)
        for field in dataclasses.fields(self)[1:]:
            if self.kind == "same" and getattr(self, field.name) != field.default:
                refuse("engine", "kind", f"torch or vllm, since {field.name} is set", self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverEngineConfig(EngineConfig):
    """The engine of a frozen model; by default it takes the options of the policy's engine."""

    kind: Literal["torch", "vllm", "same"] = "same"
    """same: the options of the policy's engine (in a groups stage, the writer's). torch or vllm: as in the
    engine section, with the options given here."""
