"""Keys and values in one pool of slots a layer: trunks lie in one piece, tails in blocks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]

BLOCK = 16
"""Tokens of a block."""


def blocks_of(num_tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-num_tokens // BLOCK)


class KVPool:
    """[slots, heads, head_dim] of keys and of values a layer, and who holds which slots.

    A fork copies nothing: a trunk is only ever read, and a tail begins with a block of its own.
    """

    def __init__(self, num_tokens: int) -> None:
        """num_tokens: > 0, rounded up to whole blocks; memory is taken when a layer is first written."""
        self.num_blocks = blocks_of(num_tokens)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._free: NDArray[np.bool_] = np.ones(self.num_blocks, dtype=bool)

    @property
    def free_blocks(self) -> int:
        return int(self._free.sum())

    @property
    def used_tokens(self) -> int:
        """Slots in blocks that somebody holds."""
        return (self.num_blocks - self.free_blocks) * BLOCK

    def take_trunk(self, num_tokens: int) -> int | None:
        """First slot of num_tokens slots in one piece, from the low end; None: no piece is that long."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], self._free.view(np.int8), [0]))))
        starts, stops = edges[::2], edges[1::2]
        fitting = np.flatnonzero(stops - starts >= blocks_of(num_tokens))
        if not len(fitting):
            return None
        first = int(starts[fitting[0]])
        self._free[first : first + blocks_of(num_tokens)] = False
        return first * BLOCK

    def give_trunk(self, start: int, num_tokens: int) -> None:
        first = start // BLOCK
        self._free[first : first + blocks_of(num_tokens)] = True

    def take_blocks(self, count: int) -> Ints:
        """First slots of `count` blocks from the pool's high end; the caller knows that they are there."""
        blocks = np.flatnonzero(self._free)[::-1][:count]
        if len(blocks) < count:
            raise RuntimeError(f"[kv_pool] blocks: expected {count} free ones, got {len(blocks)}")
        self._free[blocks] = False
        return blocks * BLOCK

    def give_blocks(self, starts: Ints) -> None:
        self._free[starts // BLOCK] = True

    def free(self) -> None:
        """Nobody holds anything any more."""
        self._free[:] = True

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values [T, heads, width] at slots [T] int64; returns the whole layer."""
        if layer not in self.layers:
            self.layers[layer] = (self._room(keys), self._room(values))
        all_keys, all_values = self.layers[layer]
        all_keys.index_copy_(0, slots, keys)
        all_values.index_copy_(0, slots, values)
        return all_keys, all_values

    def _room(self, like: Tensor) -> Tensor:
        return like.new_empty((self.num_blocks * BLOCK, *like.shape[1:]))

    def drop_memory(self) -> None:
        """Give the layers' memory back; nobody may hold slots."""
        if self.used_tokens:
            raise RuntimeError(f"[kv_pool] slots: expected none in use, got {self.used_tokens}")
        self.layers.clear()


def on_device(array: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
