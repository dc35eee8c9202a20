"""Who sees whom among the tokens of a forest: one interval a token, and what is made of it once a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastrl.kernels._checks import refuse
from fastrl.kernels.prefix_tree.forest import PrefixForest

OP = "prefix_attention"
Array = np.ndarray


@dataclass(frozen=True, slots=True)
class TileLists:
    """For each tile of rows the tiles of columns that matter to it, those without a mask first."""

    bounds: Tensor
    """[tiles, 3] int32: where a tile's list begins, where its masked part begins, where it ends."""
    tiles: Tensor
    """int32, the lists end to end."""


@dataclass(frozen=True, slots=True, eq=False)
class TreeLayout:
    """M tokens of a prefix forest in depth-first order, n segments (paths without a fork).

    Token i sees token j exactly if j <= i < subtree_stop[j].
    """

    depths: Tensor
    """[M] int32, a token's position in its sequence."""
    subtree_stop: Tensor
    """[M] int32."""
    segments: Tensor
    """[n, 4] int64 on the CPU: first token, one after the last, parent segment or -1, end of the subtree."""
    host_depths: Array
    """depths, where the host can read them."""
    _lists: dict[tuple[int, ...], TileLists] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, forest: PrefixForest, device: torch.device) -> TreeLayout:
        """The layout of the forest's slots."""
        return cls._make(forest.starts, forest.parents, forest.starts[forest.stops], forest.depths, device)

    @classmethod
    def packed(
        cls, cu_seqlens: Tensor | Array | Sequence[int], device: torch.device | None = None
    ) -> TreeLayout:
        """Sequences end to end, nothing shared: plain causal attention in each.

        Args:
            cu_seqlens: [S + 1] from 0, never falling. One that is on a GPU is waited for.
            device: None: that of cu_seqlens.
        """
        if isinstance(cu_seqlens, Tensor):
            device = cu_seqlens.device if device is None else device
            cu_seqlens = cu_seqlens.cpu().numpy()
        bounds = np.asarray(cu_seqlens, dtype=np.int64)
        if bounds.ndim != 1 or not bounds.size or bounds[0] != 0 or (np.diff(bounds) < 0).any():
            refuse(OP, "cu_seqlens", "values from 0 that never fall", bounds.tolist())
        bounds = np.unique(bounds)  # a sequence without tokens is not there
        lengths = np.diff(bounds)
        depths = np.arange(bounds[-1], dtype=np.int64) - np.repeat(bounds[:-1], lengths)
        return cls._make(bounds, np.full(len(lengths), -1), bounds[1:], depths, device or torch.device("cpu"))

    @classmethod
    def _make(
        cls, starts: Array, parents: Array, stops: Array, depths: Array, device: torch.device
    ) -> TreeLayout:
        """starts [n + 1], parents [n], stops [n] (tokens), depths [M]"""
        segments = np.stack([starts[:-1], starts[1:], parents, stops], axis=1).astype(np.int64)

        def move(array: Array) -> Tensor:
            return torch.from_numpy(array.astype(np.int32)).to(device, non_blocking=True)

        return cls(
            depths=move(depths),
            subtree_stop=move(np.repeat(stops, np.diff(starts))),
            segments=torch.from_numpy(segments),
            host_depths=depths,
        )

    @property
    def num_slots(self) -> int:
        return self.depths.numel()

    def key_lists(self, query_tile: int, key_tile: int, window: int | None) -> TileLists:
        """For each tile of queries the tiles of keys with a token that one of the queries may see."""
        return self._tile_lists(query_tile, key_tile, window, transposed=False)

    def query_lists(self, query_tile: int, key_tile: int, window: int | None) -> TileLists:
        """For each tile of keys the tiles of queries that may see one of the keys."""
        return self._tile_lists(query_tile, key_tile, window, transposed=True)

    def _tile_lists(self, query_tile: int, key_tile: int, window: int | None, transposed: bool) -> TileLists:
        name = (query_tile, key_tile, -1 if window is None else window, int(transposed))
        if name not in self._lists:
            any_seen, all_seen = self._seen(query_tile, key_tile, window)
            if transposed:
                any_seen, all_seen = any_seen.T, all_seen.T
            self._lists[name] = _csr(any_seen, all_seen, self.depths.device)
        return self._lists[name]

    def _seen(self, query_tile: int, key_tile: int, window: int | None) -> tuple[Array, Array]:
        """([query tiles, key tiles] whether a pair may have a visible token, whether all are)"""
        stops = np.repeat(self.segments[:, 3].numpy(), np.diff(self.segments[:, :2].numpy(), axis=1)[:, 0])
        first_query, first_key = (np.arange(0, self.num_slots, tile) for tile in (query_tile, key_tile))
        query_end = np.minimum(first_query + query_tile, self.num_slots)[:, None]
        key_end = first_key + key_tile
        latest, earliest = (each.reduceat(stops, first_key) for each in (np.maximum, np.minimum))
        begins = first_query[:, None]
        any_seen = (first_key < query_end) & ((key_end > begins) | (latest > begins))
        # A tile that reaches past the last token needs its mask.
        all_seen = (key_end <= begins + 1) & (earliest >= query_end) & (key_end <= self.num_slots)
        if window is not None:
            deepest_query, highest_query = _extremes(self.host_depths, first_query)
            deepest_key, highest_key = _extremes(self.host_depths, first_key)
            any_seen &= highest_query[:, None] - deepest_key < window
            all_seen &= deepest_query[:, None] - highest_key < window
        return any_seen, all_seen


def _extremes(depths: Array, starts: Array) -> tuple[Array, Array]:
    return np.maximum.reduceat(depths, starts), np.minimum.reduceat(depths, starts)


def _csr(any_seen: Array, all_seen: Array, device: torch.device) -> TileLists:
    whole, masked = all_seen & any_seen, any_seen & ~all_seen
    counts = np.stack([whole.sum(1), masked.sum(1)], axis=1)
    ends = np.cumsum(counts)
    bounds = np.concatenate([[0], ends])[np.arange(len(counts))[:, None] * 2 + np.arange(3)]
    # In each row the tiles without a mask come first, then the others, both in order.
    tiles = np.nonzero(np.stack([whole, masked], axis=1))[2]
    return TileLists(
        bounds=torch.from_numpy(bounds.astype(np.int32)).to(device),
        tiles=torch.from_numpy(tiles.astype(np.int32)).to(device),
    )
