"""Build an engine from its configuration."""

from __future__ import annotations

from typing import Any

import torch

from fastrl.config import CheckpointConfig, DataConfig, EngineConfig, RunConfig
from fastrl.data.templates import template_options, use_template
from fastrl.engine.protocol import Engine
from fastrl.engine.tree.engine import TorchEngine
from fastrl.policy.model import compute_dtype
from fastrl.policy.source import model_source


def choose_device(config: RunConfig) -> torch.device:
    """Return the device of run.device.

    Raises:
        ValueError: device is cuda, but torch finds no CUDA device.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ValueError("[run] device: expected cpu or auto, since torch finds no CUDA device, got 'cuda'")
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def engine_device(config: EngineConfig, device: torch.device) -> torch.device:
    """Return the engine's own device, or else the run's."""
    return device if config.device == "auto" else torch.device(config.device)


def build_engine(
    model: CheckpointConfig, config: EngineConfig, device: torch.device, data: DataConfig | None = None
) -> Engine:
    """Load a checkpoint into an engine; the engine is awake.

    Args:
        data: the section whose prompts it reads, and whose chat template it gets; None: the model's own
            options hold.
    Raises:
        ValueError: engine.kind is neither torch nor vllm, vLLM is not installed, or the template is missing.
    """
    engine = _build(model, config, device)
    use_template(engine.tokenizer, template_options(model, data))
    return engine


def _build(model: CheckpointConfig, config: EngineConfig, device: torch.device) -> Engine:
    device, source = engine_device(config, device), model_source(model.path)
    shared: dict[str, Any] = {
        "dtype": compute_dtype(model, device),
        "device": device,
        "max_batch_tokens": config.max_batch_tokens,
        "trust_remote_code": model.trust_remote_code,
    }
    if config.kind == "vllm":
        # not at the top: vLLM is optional
        from fastrl.engine.vllm.engine import VllmEngine

        return VllmEngine(source, enforce_eager=config.enforce_eager, **shared)
    if config.kind == "torch":
        return TorchEngine.from_pretrained(source, **shared)
    raise ValueError(f"[engine] kind: expected torch or vllm, got {config.kind!r}")
