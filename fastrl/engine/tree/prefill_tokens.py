"""The packed token stream of several request trees for prefill."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastrl.engine.tree.following import NextTokens
from fastrl.engine.tree.kv_pool import Ints, on_device
from fastrl.engine.tree.prefill import Span, spans_of
from fastrl.engine.tree.request_tree import RequestTree
from fastrl.engine.tree.scoring import slots_above
from fastrl.ops import linear_logprob
from fastrl.policy.head import LmHead


class PrefillStream:
    """All tokens of the trees, the last token of each request's prefix, and the tokens to score."""

    def __init__(self, trees: Sequence[RequestTree], device: torch.device) -> None:
        """Pack trees that have slots in the pool."""
        self.trees, self.device = trees, device
        sizes = [tree.forest.num_slots for tree in trees]
        bases = np.cumsum([0, *sizes[:-1]]).tolist()
        self.bases: list[int] = bases
        """Index in the stream of each tree's first token."""
        self.spans: list[Span] = []
        for tree, base in zip(trees, bases, strict=True):
            assert tree.slots is not None, "trees have slots before they are prefilled"
            self.spans += spans_of(tree.forest, tree.slots, base)
        self.tokens = on_device(np.concatenate([tree.forest.tokens for tree in trees]), device)
        self.depths = on_device(np.concatenate([tree.forest.depths for tree in trees]), device)
        pairs = list(zip(trees, bases, strict=True))
        self.ends: Ints = np.concatenate([tree.end_slots + shift for tree, shift in pairs])
        """[requests] index in the stream of the last token of each request's prefix."""
        self._scored: Ints = np.concatenate([tree.scored + shift for tree, shift in pairs])
        self._above: Ints = np.concatenate(
            [slots_above(tree.forest)[tree.scored] + shift for tree, shift in pairs]
        )
        self._found: list[tuple[Ints, Tensor]] = []
        self.next_tokens = NextTokens([tree.forest for tree in trees])
        self.keeps_hidden = self.next_tokens.any_after(self.ends)
        """True if a request may follow its tree; then hidden states are needed after the pass."""
        self._hidden: list[Tensor] = []

    @property
    def scores(self) -> bool:
        """True if any token is scored."""
        return len(self._scored) > 0

    def score(self, hidden: Tensor, first: int, head: LmHead, temperature: float) -> None:
        """Score the children of the tokens [first, first + T), given their last hidden states [T, D]."""
        here = np.flatnonzero((self._above >= first) & (self._above < first + len(hidden)))
        if len(here):
            parents = hidden[on_device(self._above[here] - first, self.device)]
            ids = self.tokens[on_device(self._scored[here], self.device)]
            out = linear_logprob(parents, head.weight, ids, temperature=temperature, **head.options())
            self._found.append((here, out.logprobs))

    def keep(self, hidden: Tensor) -> None:
        """Keep the last hidden states [T, D] of the next T tokens, if a request may follow its tree."""
        if self.keeps_hidden:
            self._hidden.append(hidden)

    def hidden(self) -> Tensor:
        """Return the hidden states of all tokens."""
        return torch.cat(self._hidden)

    def finish(self) -> None:
        """Store the log-probs in their trees."""
        values = np.zeros(len(self._scored), dtype=np.float32)
        for here, logprobs in self._found:
            values[here] = logprobs.cpu().numpy()
        stop = 0
        for tree in self.trees:
            start, stop = stop, stop + len(tree.scored)
            tree.logprobs = np.zeros(tree.forest.num_slots, dtype=np.float32)
            tree.logprobs[tree.scored] = values[start:stop]
