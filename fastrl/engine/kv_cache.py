"""Keys and values: of prefilled tokens (one row a token) and of generated ones (one row a request)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.engine.prefix_tree import Ints

_FIRST_CAPACITY = 64

Layers = dict[int, tuple[Tensor, Tensor]]


class PrefixKV:
    """Keys and values of prefilled tokens, [slots, heads, head_dim] a layer, written once."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.layers: Layers = {}

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

    def gather(self, slots: Ints) -> Layers:
        """Copies [N, heads, L, head_dim] a layer of the tokens at slots [N, L]."""
        where = torch.from_numpy(slots).to(next(iter(self.layers.values()))[0].device)
        return {
            layer: (keys[where].transpose(1, 2).contiguous(), values[where].transpose(1, 2).contiguous())
            for layer, (keys, values) in self.layers.items()
        }


class SuffixKV:
    """Keys and values of each row's own tokens, [rows, heads, capacity, head_dim] a layer.

    All rows hold equally many tokens, so no row needs a mask for them. Grows by doubling.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.length = 0
        self.layers: Layers = {}

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [rows, heads, head_dim] of token `length`; returns all up to it.

        The caller moves `length` on when every layer has been written.
        """
        buffers = self.layers.get(layer)
        if buffers is None:
            buffers = (_room(keys, self._capacity()), _room(values, self._capacity()))
        elif self.length == buffers[0].shape[2]:
            buffers = (self._grown(buffers[0]), self._grown(buffers[1]))
        self.layers[layer] = buffers
        all_keys, all_values = buffers
        all_keys[:, :, self.length] = keys
        all_values[:, :, self.length] = values
        return all_keys[:, :, : self.length + 1], all_values[:, :, : self.length + 1]

    def _capacity(self) -> int:
        return min(self.max_tokens, max(_FIRST_CAPACITY, 2 * self.length))

    def _grown(self, old: Tensor) -> Tensor:
        new = _room(old[:, :, 0], self._capacity())
        new[:, :, : self.length] = old
        return new

    def keep(self, rows: Tensor) -> None:
        """Keep these rows only, in this order."""
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = (self._kept(keys, rows), self._kept(values, rows))

    def _kept(self, old: Tensor, rows: Tensor) -> Tensor:
        new = old.new_empty((len(rows), *old.shape[1:]))
        new[:, :, : self.length] = old[:, :, : self.length].index_select(0, rows)
        return new


def _room(like: Tensor, capacity: int) -> Tensor:
    """[rows, heads, capacity, width] for tokens like [rows, heads, width]."""
    return like.new_empty((*like.shape[:2], capacity, like.shape[2]))
