"""TreeLayout: the attention pattern of a prefix forest, one interval per token, and its tile lists."""

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
    """For each tile of rows, the list of visible tiles of columns, fully visible ones first."""

    bounds: Tensor
    """[tiles, 3] int32: begin of a tile's list, begin of its part that needs a mask, end."""
    tiles: Tensor
    """int32, the concatenated lists."""


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
    """[n, 4] int64 on the CPU: first token, last token + 1, parent segment or -1, end of the subtree."""
    host_depths: Array
    """depths on the host."""
    _lists: dict[tuple[int, ...], TileLists] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, forest: PrefixForest, device: torch.device) -> TreeLayout:
        """Return the layout of a forest's slots."""
        return cls._make(forest.starts, forest.parents, forest.starts[forest.stops], forest.depths, device)

    @classmethod
    def packed(
        cls, cu_seqlens: Tensor | Array | Sequence[int], device: torch.device | None = None
    ) -> TreeLayout:
        """Return the layout of packed sequences without shared prefixes: causal attention in each.

        Args:
            cu_seqlens: [S + 1], from 0, not decreasing. If it is on a GPU, costs one host sync.
            device: device of the layout; None: that of cu_seqlens.
        """
        if isinstance(cu_seqlens, Tensor):
            device = cu_seqlens.device if device is None else device
            cu_seqlens = cu_seqlens.cpu().numpy()
        bounds = np.asarray(cu_seqlens, dtype=np.int64)
        if bounds.ndim != 1 or not bounds.size or bounds[0] != 0 or (np.diff(bounds) < 0).any():
            refuse(OP, "cu_seqlens", "values from 0 that never fall", bounds.tolist())
        bounds = np.unique(bounds)  # drops empty sequences
        lengths = np.diff(bounds)
        depths = np.arange(bounds[-1], dtype=np.int64) - np.repeat(bounds[:-1], lengths)
        return cls._make(bounds, np.full(len(lengths), -1), bounds[1:], depths, device or torch.device("cpu"))

    @classmethod
    def _make(
        cls, starts: Array, parents: Array, stops: Array, depths: Array, device: torch.device
    ) -> TreeLayout:
        """Return the layout of starts [n + 1], parents [n], stops [n] (in tokens) and depths [M]."""
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
        """Return for each tile of queries the tiles of keys that some of its queries may see."""
        return self._tile_lists(query_tile, key_tile, window, transposed=False)

    def query_lists(self, query_tile: int, key_tile: int, window: int | None) -> TileLists:
        """Return for each tile of keys the tiles of queries that may see some of its keys."""
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
        """Return two masks [query tiles, key tiles]: some tokens may be visible, all tokens are visible."""
        stops = np.repeat(self.segments[:, 3].numpy(), np.diff(self.segments[:, :2].numpy(), axis=1)[:, 0])
        first_query, first_key = (np.arange(0, self.num_slots, tile) for tile in (query_tile, key_tile))
        query_end = np.minimum(first_query + query_tile, self.num_slots)[:, None]
        key_end = first_key + key_tile
        latest, earliest = (extreme.reduceat(stops, first_key) for extreme in (np.maximum, np.minimum))
        begins = first_query[:, None]
        any_seen = (first_key < query_end) & ((key_end > begins) | (latest > begins))
        # a tile that extends past the last token needs a mask
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
    # in each row tiles without a mask come first, then the others, both in order
    tiles = np.nonzero(np.stack([whole, masked], axis=1))[2]
    return TileLists(
        bounds=torch.from_numpy(bounds.astype(np.int32)).to(device),
        tiles=torch.from_numpy(tiles.astype(np.int32)).to(device),
    )
