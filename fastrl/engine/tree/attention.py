"""The attention function that the engine's models call: every layer asks the batch that is running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION = "fastrl_engine"
_UNSUPPORTED = ("s_aux", "position_bias")
"""Options of attention functions that change the result in ways the engine does not compute."""


class AttentionLayer(NamedTuple):
    """How one layer attends."""

    layer: int
    scaling: float
    softcap: float | None
    window: int | None
    """A token sees itself and the window - 1 tokens before it; None: all."""


class AttentionBatch(Protocol):
    """What a forward pass attends with: it stores keys and values and answers queries, layer by layer."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: AttentionLayer) -> Tensor:
        """query [T, Hq, K], key [T, Hkv, K], value [T, Hkv, Kv] of the pass's T tokens -> [T, Hq, Kv]."""


_running = threading.local()


@contextmanager
def attending(batch: AttentionBatch) -> Iterator[None]:
    """Inside, the forward pass of this thread attends with `batch`."""
    _running.batch = batch
    try:
        yield
    finally:
        _running.batch = None


def engine_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, sliding_window: int | None = None, softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of a flat stream: query [1, Hq, T, K], key and value [1, Hkv, T, K] -> [1, T, Hq, K]."""
    name = type(module).__name__
    batch: AttentionBatch | None = getattr(_running, "batch", None)
    if batch is None:
        raise RuntimeError(f"[engine] {name}: expected a forward pass of the engine, got one from outside")
    for option in _UNSUPPORTED:
        if options.get(option) is not None:
            raise NotImplementedError(f"[engine] {name}: expected plain attention, got {option}")
    index = getattr(module, "layer_idx", None)
    if index is None:
        raise NotImplementedError(f"[engine] {name}: expected a layer_idx, got none")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = AttentionLayer(index, scaling, softcap, sliding_window)
    out = batch.attend(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), how)
    return out[None], None


AttentionInterface.register(ATTENTION, engine_attention)
