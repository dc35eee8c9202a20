"""The KV cache: one pool of slots per layer; shared prefixes (trunks) are contiguous, tails are in blocks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]

BLOCK = 16
"""Tokens per block."""


def blocks_of(num_tokens: int) -> int:
    """Return the number of blocks for this many tokens."""
    return -(-num_tokens // BLOCK)


class KVPool:
    """Keys and values [slots, heads, head_dim] per layer, and a map of free blocks.

    Forking a request copies nothing: trunks are read-only, and a tail begins with a new block.
    """

    def __init__(self, num_tokens: int) -> None:
        """Create a pool of num_tokens > 0 tokens, rounded up to whole blocks.

        Memory of a layer is allocated when it is first written.
        """
        self.num_blocks = blocks_of(num_tokens)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._free: NDArray[np.bool_] = np.ones(self.num_blocks, dtype=bool)

    @property
    def free_blocks(self) -> int:
        return int(self._free.sum())

    @property
    def used_tokens(self) -> int:
        """Slots in blocks that are in use."""
        return (self.num_blocks - self.free_blocks) * BLOCK

    def take_trunk(self, num_tokens: int) -> int | None:
        """Allocate num_tokens contiguous slots from the low end; return the first, or None if none fit."""
        edges = np.flatnonzero(np.diff(np.concatenate(([0], self._free.view(np.int8), [0]))))
        starts, stops = edges[::2], edges[1::2]
        fitting = np.flatnonzero(stops - starts >= blocks_of(num_tokens))
        if not len(fitting):
            return None
        first = int(starts[fitting[0]])
        self._free[first : first + blocks_of(num_tokens)] = False
        return first * BLOCK

    def give_trunk(self, start: int, num_tokens: int) -> None:
        """Free the slots of a trunk."""
        first = start // BLOCK
        self._free[first : first + blocks_of(num_tokens)] = True

    def take_blocks(self, count: int) -> Ints:
        """Allocate `count` blocks from the high end, which must be free; return their first slots."""
        blocks = np.flatnonzero(self._free)[::-1][:count]
        if len(blocks) < count:
            raise RuntimeError(f"[kv_pool] blocks: expected {count} free ones, got {len(blocks)}")
        self._free[blocks] = False
        return blocks * BLOCK

    def give_blocks(self, starts: Ints) -> None:
        """Free blocks, given their first slots."""
        self._free[starts // BLOCK] = True

    def free(self) -> None:
        """Free all blocks."""
        self._free[:] = True

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [T, heads, width] to slots [T] int64; return the layer's whole tensors."""
        if layer not in self.layers:
            self.layers[layer] = (self._allocate(keys), self._allocate(values))
        all_keys, all_values = self.layers[layer]
        all_keys.index_copy_(0, slots, keys)
        all_values.index_copy_(0, slots, values)
        return all_keys, all_values

    def _allocate(self, like: Tensor) -> Tensor:
        return like.new_empty((self.num_blocks * BLOCK, *like.shape[1:]))

    def drop_memory(self) -> None:
        """Release the memory of all layers. Raises RuntimeError if blocks are in use."""
        if self.used_tokens:
            raise RuntimeError(f"[kv_pool] slots: expected none in use, got {self.used_tokens}")
        self.layers.clear()


def on_device(array: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
