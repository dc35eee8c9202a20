"""A tier: prefixes that several rows share in decode, each read once a step for all its rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.attention import AttentionLayer
from fastrl.engine.kv_cache import PrefixKV
from fastrl.engine.prefix_tree import Ints


class Tier:
    """Groups of rows and the keys and values each group shares, [groups, heads, L, head_dim] a layer.

    Row r belongs to group[r] and sees its first visible[r] tokens. Rows of a group are put side by side,
    so that one matrix product reads the group's keys for all of them.
    """

    def __init__(self, kv: PrefixKV, slots: list[Ints], starts: Ints, group: Ints, visible: Ints) -> None:
        """slots: pool slots of each group's tokens; starts: position of each group's first token."""
        self.lengths = np.asarray([len(s) for s in slots])
        index = np.zeros((len(slots), self.lengths.max()), dtype=np.int64)
        for i, own in enumerate(slots):
            index[i, : len(own)] = own
            index[i, len(own) :] = own[0]
        self.layers = kv.gather(index)
        self.device = next(iter(self.layers.values()))[0].device
        self.starts = starts
        self._positions: Ints | None = None
        self._arrange(group, visible)

    @property
    def num_tokens(self) -> int:
        """Tokens of keys and values held, padding included."""
        return len(self.lengths) * int(self.lengths.max())

    def _arrange(self, group: Ints, visible: Ints) -> None:
        """Lay the rows out as [groups, M]."""
        self.group, self.visible = group, visible
        counts = np.bincount(group, minlength=len(self.lengths))
        self.most_rows = int(counts.max())
        order = np.argsort(group, kind="stable")
        place = np.arange(len(group)) - (np.cumsum(counts) - counts)[group[order]]
        slot = np.empty_like(group)
        slot[order] = group[order] * self.most_rows + place
        row = np.zeros(len(self.lengths) * self.most_rows, dtype=np.int64)
        row[slot] = np.arange(len(group))
        self.in_place = len(row) == len(group) and bool((slot == np.arange(len(slot))).all())
        self.slot = torch.from_numpy(slot).to(self.device)
        self.row, self._row = torch.from_numpy(row).to(self.device), row
        seen = visible[row].reshape(len(self.lengths), self.most_rows, 1)
        hidden = np.arange(self.lengths.max()) >= seen
        self.hidden = torch.from_numpy(hidden).to(self.device) if hidden.any() else None
        self._masks: dict[tuple[int | None, torch.dtype], Tensor | None] = {}

    def keep(self, rows: Ints) -> None:
        """Keep these rows only; groups without rows leave."""
        groups, group = np.unique(self.group[rows], return_inverse=True)
        if len(groups) < len(self.lengths):
            self.lengths, self.starts = self.lengths[groups], self.starts[groups]
            index, longest = torch.from_numpy(groups).to(self.device), int(self.lengths.max())
            self.layers = {
                layer: (keys[index, :, :longest], values[index, :, :longest])
                for layer, (keys, values) in self.layers.items()
            }
        self._arrange(group, self.visible[rows])

    def begin_step(self, positions: Ints | None) -> None:
        """Positions of all rows at this step; None where no layer has a window they could reach."""
        if positions is not None or self._positions is not None:
            self._masks.clear()
        self._positions = positions

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive [groups, 1, M, 1, L]: 0 where a row sees a key; None: every row sees all."""
        if self._positions is None:
            window = None
        if (window, dtype) not in self._masks:
            hidden = self.hidden
            if window is not None and self._positions is not None:
                at = self._positions[self._row].reshape(len(self.lengths), -1, 1)
                key_at = self.starts[:, None, None] + np.arange(self.lengths.max())
                passed = torch.from_numpy(at - key_at >= window).to(self.device)
                hidden = passed if hidden is None else hidden | passed
            mask = None
            if hidden is not None:
                mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
                mask = mask.masked_fill_(hidden, -torch.inf)[:, None, :, None]
            self._masks[window, dtype] = mask
        return self._masks[window, dtype]

    def _by_group(self, rows: Tensor) -> Tensor:
        """[R, heads, g, X] -> [groups, heads, M * g, X]."""
        heads, g, width = rows.shape[1:]
        if not self.in_place:
            rows = rows[self.row]
        grouped = rows.view(len(self.lengths), self.most_rows, heads, g, width).transpose(1, 2)
        return grouped.reshape(len(self.lengths), heads, self.most_rows * g, width)

    def _by_row(self, grouped: Tensor, g: int) -> Tensor:
        """[groups, heads, M * g, X] -> [R, heads, g, X]."""
        heads, width = grouped.shape[1], grouped.shape[3]
        rows = grouped.view(len(self.lengths), heads, self.most_rows, g, width).transpose(1, 2)
        rows = rows.reshape(-1, heads, g, width)
        return rows if self.in_place else rows[self.slot]

    def scores(self, query: Tensor, how: AttentionLayer) -> Tensor:
        """Masked scores [R, Hkv, g, L] of scaled queries [R, Hkv, g, K]."""
        keys = self.layers[how.layer][0]
        scores = self._by_group(query) @ keys.transpose(-1, -2)
        if how.softcap is not None:
            scores = how.softcap * torch.tanh(scores / how.softcap)
        mask = self._mask(how.window, scores.dtype)
        if mask is not None:
            split = scores.view(*scores.shape[:2], self.most_rows, query.shape[2], scores.shape[3])
            scores = (split + mask).view_as(scores)
        return self._by_row(scores, query.shape[2])

    def mix(self, weights: Tensor, how: AttentionLayer) -> Tensor:
        """Sum of values [R, Hkv, g, Kv] under weights [R, Hkv, g, L]."""
        values = self.layers[how.layer][1]
        return self._by_row(self._by_group(weights) @ values, weights.shape[2])
