"""The tokens of several request trees, end to end, as one stream through the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.tree.kv_pool import Ints, on_device
from fastrl.engine.tree.prefill import Span, spans_of
from fastrl.engine.tree.request_tree import RequestTree
from fastrl.engine.tree.scoring import slots_above
from fastrl.ops import linear_logprob
from fastrl.policy.head import LmHead


class PrefillStream:
    """Every token of the trees; where requests end among them, and which are scored."""

    def __init__(self, trees: Sequence[RequestTree], device: torch.device) -> None:
        """trees: with room in the pool."""
        self.trees, self.device = trees, device
        sizes = [tree.forest.num_slots for tree in trees]
        bases = np.cumsum([0, *sizes[:-1]]).tolist()
        self.spans: list[Span] = []
        for tree, base in zip(trees, bases, strict=True):
            assert tree.slots is not None, "trees have room before they are prefilled"
            self.spans += spans_of(tree.forest, tree.slots, base)
        self.tokens = on_device(np.concatenate([tree.forest.tokens for tree in trees]), device)
        self.depths = on_device(np.concatenate([tree.forest.depths for tree in trees]), device)
        pairs = list(zip(trees, bases, strict=True))
        self.ends: Ints = np.concatenate([tree.end_slots + shift for tree, shift in pairs])
        """[requests] token of the stream that each request continues."""
        self._scored: Ints = np.concatenate([tree.scored + shift for tree, shift in pairs])
        self._above: Ints = np.concatenate(
            [slots_above(tree.forest)[tree.scored] + shift for tree, shift in pairs]
        )
        self._found: list[tuple[Ints, Tensor]] = []

    @property
    def scores(self) -> bool:
        """True if any log-prob is wanted."""
        return len(self._scored) > 0

    def score(self, hidden: Tensor, first: int, head: LmHead, temperature: float) -> None:
        """Score the tokens below those whose last hidden states [T, D] these are, from `first` on."""
        here = np.flatnonzero((self._above >= first) & (self._above < first + len(hidden)))
        if len(here):
            rows = hidden[on_device(self._above[here] - first, self.device)]
            ids = self.tokens[on_device(self._scored[here], self.device)]
            out = linear_logprob(rows, head.weight, ids, temperature=temperature, **head.options())
            self._found.append((here, out.logprobs))

    def finish(self) -> None:
        """Hand the log-probs to their trees."""
        values = np.zeros(len(self._scored), dtype=np.float32)
        for here, logprobs in self._found:
            values[here] = logprobs.cpu().numpy()
        stop = 0
        for tree in self.trees:
            start, stop = stop, stop + len(tree.scored)
            tree.logprobs = np.zeros(tree.forest.num_slots, dtype=np.float32)
            tree.logprobs[tree.scored] = values[start:stop]
