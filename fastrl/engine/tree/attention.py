"""The attention function of the engine's models, which calls the batch that is running in this thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface

ATTENTION = "fastrl_engine"
_UNSUPPORTED = ("s_aux", "position_bias")
"""Options of attention functions that the engine does not support."""


class AttentionLayer(NamedTuple):
    """Attention parameters of one layer."""

    layer_idx: int
    scaling: float
    softcap: float | None
    window: int | None
    """Sliding window: a token sees itself and the window - 1 tokens before it; None: all."""


class AttentionBatch(Protocol):
    """A batch that stores the keys and values of a forward pass and computes its attention."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: AttentionLayer) -> Tensor:
        """Return attention [T, Hq, Kv] of query [T, Hq, K], key [T, Hkv, K] and value [T, Hkv, Kv]."""


_running = threading.local()


@contextmanager
def attending(batch: AttentionBatch) -> Iterator[None]:
    """Make forward passes of this thread attend with `batch` within the block."""
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
    """Return attention [1, T, Hq, K] of packed tokens: query [1, Hq, T, K], key and value [1, Hkv, T, K]."""
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
    layer = AttentionLayer(index, scaling, softcap, sliding_window)
    out = batch.attend(query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), layer)
    return out[None], None


AttentionInterface.register(ATTENTION, engine_attention)
