"""How a model generates."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fastrl.config.base import check_positive, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model generates."""

    kind: Literal["torch", "vllm", "same"] = "torch"
    """torch: the embedded engine, any Hugging Face decoder. vllm: vLLM in this process; it must be installed.
    same: as in the engine section, for the engines of rewards."""
    max_batch_tokens: int = 65536
    """> 0; tokens of KV cache that one generation batch may hold. More requests wait their turn."""
    device: str = "auto"
    """auto: the run's device. cpu, cuda:1, …: one of its own, the same on every rank."""
    sleep: bool = False
    """The engine gives its memory back while others work: for a policy and a receiver on one GPU."""
    enforce_eager: bool = False
    """vllm on a GPU without CUDA graphs: starts sooner, decodes slower."""

    def __post_init__(self) -> None:
        check_positive("engine", self, "max_batch_tokens")
        if self.kind == "torch" and self.enforce_eager:
            refuse("engine", "enforce_eager", "false, since kind torch has no such choice", True)
        for each in dataclasses.fields(self)[1:]:
            if self.kind == "same" and getattr(self, each.name) != each.default:
                refuse("engine", "kind", f"torch or vllm, since {each.name} is set", self.kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverEngineConfig(EngineConfig):
    """How the receiver generates: as the engine section says, unless a kind is named here."""

    kind: Literal["torch", "vllm", "same"] = "same"
