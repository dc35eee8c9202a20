"""Rows that started decoding together and stay in step: the unit that the scheduler admits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.attention import AttentionLayer
from fastrl.engine.jobs import Job
from fastrl.engine.kv_cache import SuffixKV
from fastrl.engine.layout import Prefixes
from fastrl.engine.prefix_tree import Ints
from fastrl.engine.sampling import draw, uniforms
from fastrl.engine.stopping import StopRule
from fastrl.types import SamplingParams

_UNIFORMS_AHEAD = 32
_COMPACT_AT = 0.85
"""Finished rows leave the batch when no more than this share is still alive."""


@dataclass(slots=True)
class Finished:
    """Tokens of one row, as it ended."""

    row: int
    token_ids: list[int]
    logprobs: list[float]
    stopped: bool


class Cohort:
    """Decoding rows over shared tiers. Each has sampled `length` tokens, finished ones included."""

    def __init__(
        self, parts: Sequence[Job], sampling: SamplingParams, stop: StopRule, device: torch.device
    ) -> None:
        """parts: prefilled jobs, whose first tokens have been drawn."""
        prefixes = Prefixes(parts)
        self.rows = np.concatenate([p.rows for p in parts])
        self.limits = np.concatenate([p.limit for p in parts])
        self.prefix_lengths = prefixes.lengths
        self.keys = torch.from_numpy(np.concatenate([p.key for p in parts])).to(device)
        self.sampling, self.stop = sampling, stop
        self.max_tokens = int(self.limits.max())
        self.suffix, self.tiers = SuffixKV(self.max_tokens - 1), prefixes.tiers()
        firsts = [p.first for p in parts if p.first is not None]
        first = (torch.cat([ids for ids, _ in firsts]), torch.cat([logprobs for _, logprobs in firsts]))
        self.length = 1
        self.last, self._new = first[0], [first]
        self._place_rows()
        self._uniforms = uniforms(self.keys, 1, _UNIFORMS_AHEAD)
        self._uniforms_start = 1
        self.current = np.arange(len(self.rows))
        self.tokens = np.zeros((len(self.rows), self.max_tokens), dtype=np.int32)
        self.logprobs = np.zeros((len(self.rows), self.max_tokens), dtype=np.float32)
        self.ends = np.zeros(len(self.rows), dtype=np.int64)
        """Length of each row when it ended; 0 while it is alive."""
        self.stopped = np.zeros(len(self.rows), dtype=bool)

    def _place_rows(self) -> None:
        self._starts = torch.from_numpy(self.prefix_lengths).to(self.keys.device)
        self._longest_prefix = int(self.prefix_lengths.max())

    @property
    def num_rows(self) -> int:
        """Rows that go through the model."""
        return len(self.current)

    @property
    def num_tokens(self) -> int:
        """Tokens of keys and values held or promised."""
        return self.num_rows * self.max_tokens + sum(tier.num_tokens for tier in self.tiers)

    def begin_step(self, smallest_window: int | None, max_model_len: int) -> Tensor:
        """Positions of the tokens that go through the model next."""
        if smallest_window is not None:
            reached = self._longest_prefix + self.length > smallest_window
            for tier in self.tiers:
                tier.begin_step(self.prefix_lengths + self.length - 1 if reached else None)
        positions = self._starts + (self.length - 1)
        if self._longest_prefix + self.length > max_model_len:
            # only rows that have ended, and wait to leave the batch, can be there
            positions.clamp_(max=max_model_len - 1)
        return positions

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: AttentionLayer) -> Tensor:
        """Attention of one new token a row over its tiers and its own generated tokens, one softmax."""
        rows, num_heads, width = query.shape
        keys, values = self.suffix.append(how.layer, key, value)
        unseen = 0 if how.window is None else max(0, keys.shape[2] - how.window)
        if unseen:
            keys, values = keys[:, :, unseen:], values[:, :, unseen:]
        q = (query * how.scaling).reshape(rows, key.shape[1], num_heads // key.shape[1], width)
        own = q @ keys.transpose(-1, -2)
        if how.softcap is not None:
            own = how.softcap * torch.tanh(own / how.softcap)
        parts = [tier.scores(q, how) for tier in self.tiers] + [own]
        weights = torch.cat(parts, -1).softmax(-1, dtype=torch.float32).to(value.dtype)
        split: Sequence[Tensor] = torch.split(weights, [part.shape[-1] for part in parts], -1)
        out: Tensor = split[-1] @ values
        for tier, share in zip(self.tiers, split, strict=False):
            out = out + tier.mix(share, how)
        return out.reshape(rows, num_heads, -1)

    def take(self, logits: Tensor) -> None:
        """Sample the next token of every row from logits [rows, V]."""
        self.suffix.length += 1
        at = self.length - self._uniforms_start
        if at == _UNIFORMS_AHEAD:
            self._uniforms = uniforms(self.keys, self.length, _UNIFORMS_AHEAD)
            self._uniforms_start, at = self.length, 0
        ids, logprobs = draw(logits, self._uniforms[:, at], self.sampling)
        self.last = ids
        self._new.append((ids, logprobs))
        self.length += 1

    def check(self) -> bool:
        """Find the rows that ended since the last check, and drop them once they are many.

        Returns whether any row is alive. The only place where the host waits for the device.
        """
        width = len(self._new)
        start = self.length - width
        new = torch.stack([ids for ids, _ in self._new], 1).cpu().numpy()
        logprobs = torch.stack([logprobs for _, logprobs in self._new], 1).cpu().numpy()
        if np.isnan(logprobs).any():
            raise FloatingPointError("[engine] logits: expected numbers, got nan; are the weights finite?")
        self._new = []
        self.tokens[self.current, start : self.length] = new
        self.logprobs[self.current, start : self.length] = logprobs
        alive = self.ends[self.current] == 0
        stop = self.stop.first_stop(new, self.tokens[self.current], start, alive)
        limits = self.limits[self.current]
        stopped = (stop < width) & (start + stop < limits)
        ended = np.where(stopped, start + stop + 1, np.where(limits <= self.length, limits, 0))
        just = alive & (ended > 0)
        self.ends[self.current[just]] = ended[just]
        self.stopped[self.current[just]] = stopped[just]
        alive &= ~just
        num_alive = int(alive.sum())
        if num_alive and num_alive <= _COMPACT_AT * self.num_rows:
            self._compact(np.flatnonzero(alive))
        return num_alive > 0

    def _compact(self, rows: Ints) -> None:
        index = torch.from_numpy(rows).to(self.keys.device)
        self.suffix.keep(index)
        for tier in self.tiers:
            tier.keep(rows)
        self.current = self.current[rows]
        self.prefix_lengths = self.prefix_lengths[rows]
        self.keys, self.last = self.keys[index], self.last[index]
        self._uniforms = self._uniforms[index]
        self._place_rows()

    @property
    def tokens_to_go(self) -> int:
        """Steps after which every row has reached its limit."""
        return self.max_tokens - self.length

    def results(self) -> list[Finished]:
        """All rows, once none is alive."""
        return [
            Finished(int(row), ids[:end].tolist(), logprobs[:end].tolist(), bool(stopped))
            for row, ids, logprobs, end, stopped in zip(
                self.rows, self.tokens, self.logprobs, self.ends, self.stopped, strict=True
            )
        ]


class DecodeBatch:
    """One token of every row of several cohorts in one forward pass."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        self.cohorts = cohorts
        self.sizes = [cohort.num_rows for cohort in cohorts]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: AttentionLayer) -> Tensor:
        if len(self.cohorts) == 1:
            return self.cohorts[0].attend(query, key, value, how)
        parts = zip(self.cohorts, *(torch.split(x, self.sizes) for x in (query, key, value)), strict=True)
        return torch.cat([cohort.attend(q, k, v, how) for cohort, q, k, v in parts])
