"""The tokens of several trees on their way through the model, end to end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.tree.decoder import Head
from fastrl.engine.tree.kv_pool import Ints, on_device
from fastrl.engine.tree.prefill import Span, spans_of
from fastrl.engine.tree.requests import Job
from fastrl.engine.tree.scoring import slots_above
from fastrl.ops import linear_logprob


class Stream:
    """Every token that is not in the pool yet; where requests end among them, and which are scored."""

    def __init__(self, jobs: Sequence[Job], device: torch.device) -> None:
        """jobs: with room in the pool."""
        self.jobs, self.device = jobs, device
        sizes = [job.forest.num_slots - job.known for job in jobs]
        bases = np.cumsum([0, *sizes[:-1]]).tolist()
        self.spans: list[Span] = []
        for job, base in zip(jobs, bases, strict=True):
            assert job.slots is not None, "trees have room before they are prefilled"
            self.spans += spans_of(job.forest, job.slots, job.known, base)
        self.tokens = on_device(np.concatenate([job.forest.tokens[job.known :] for job in jobs]), device)
        self.depths = on_device(np.concatenate([job.forest.depths[job.known :] for job in jobs]), device)
        pairs = [(job, base - job.known) for job, base in zip(jobs, bases, strict=True)]
        self.ends: Ints = np.concatenate([job.end_slots + shift for job, shift in pairs])
        """[requests] token of the stream that each request continues."""
        self._scored: Ints = np.concatenate([job.scored + shift for job, shift in pairs])
        self._above: Ints = np.concatenate(
            [slots_above(job.forest)[job.scored] + shift for job, shift in pairs]
        )
        self._found: list[tuple[Ints, Tensor]] = []

    @property
    def scores(self) -> bool:
        """Whether any log-prob is wanted."""
        return len(self._scored) > 0

    def score(self, hidden: Tensor, first: int, head: Head, temperature: float) -> None:
        """Log-probs of the tokens below those whose last hidden states [T, D] these are, from `first` on."""
        here = np.flatnonzero((self._above >= first) & (self._above < first + len(hidden)))
        if len(here):
            rows = hidden[on_device(self._above[here] - first, self.device)]
            ids = self.tokens[on_device(self._scored[here], self.device)]
            out = linear_logprob(rows, head.weight, ids, temperature=temperature, **head.options())
            self._found.append((here, out.logprobs))

    def finish(self) -> None:
        """Hand the log-probs to their jobs."""
        values = np.zeros(len(self._scored), dtype=np.float32)
        for here, logprobs in self._found:
            values[here] = logprobs.cpu().numpy()
        stop = 0
        for job in self.jobs:
            start, stop = stop, stop + len(job.scored)
            job.logprobs = np.zeros(job.forest.num_slots, dtype=np.float32)
            job.logprobs[job.scored] = values[start:stop]
