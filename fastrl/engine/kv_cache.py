"""Keys and values: of prefilled tokens (one row a token) and of generated ones (one row a request)."""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_CAPACITY = 64


class PrefixKV:
    """Keys and values of prefilled tokens, [slots, heads, head_dim] a layer, written once."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values [T, heads, head_dim] at slots start...; returns the whole layer."""
        if layer not in self.layers:
            self.layers[layer] = (
                keys.new_empty((self.num_slots, *keys.shape[1:])),
                values.new_empty((self.num_slots, *values.shape[1:])),
            )
        all_keys, all_values = self.layers[layer]
        all_keys[start : start + len(keys)] = keys
        all_values[start : start + len(values)] = values
        return all_keys, all_values


class SuffixKV:
    """Keys and values of generated tokens, [rows, heads, capacity, head_dim] a layer.

    All rows have generated equally many tokens, so no row needs a mask. Grows by doubling.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.length = 0
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [rows, heads, head_dim] of token `length`; returns all up to it.

        The caller moves `length` on when every layer has been written.
        """
        buffers = self.layers.get(layer)
        if buffers is None or self.length == buffers[0].shape[2]:
            buffers = self.layers[layer] = self._grown(buffers, keys, values)
        all_keys, all_values = buffers
        all_keys[:, :, self.length] = keys
        all_values[:, :, self.length] = values
        return all_keys[:, :, : self.length + 1], all_values[:, :, : self.length + 1]

    def _grown(
        self, old: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        capacity = min(self.max_tokens, _FIRST_CAPACITY if old is None else 2 * self.length)
        grown = tuple(new.new_empty((*new.shape[:2], capacity, new.shape[2])) for new in (keys, values))
        if old is not None:
            for target, source in zip(grown, old, strict=True):
                target[:, :, : self.length] = source
        return grown[0], grown[1]

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only, in this order."""
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = (self._kept(keys, rows), self._kept(values, rows))

    def _kept(self, old: Tensor, rows: Tensor) -> Tensor:
        new = old.new_empty((len(rows), *old.shape[1:]))
        torch.index_select(old[:, :, : self.length], 0, rows, out=new[:, :, : self.length])
        return new
