"""Prompts whose keys and values outlive their trees: a frozen model is asked about them again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from fastrl.engine.tree.kv_pool import KVPool

Prompt = tuple[int, ...]


@dataclass(slots=True)
class _Entry:
    start: int
    users: int


class PromptCache:
    """Least recently used prompts go first, and only as their room is asked for.

    Off, it holds nothing. A prompt found here was computed in another batch than it would be now, which may
    change the last bits of what follows; so a run that went on after a stop is not the same bit for bit.
    """

    def __init__(self, pool: KVPool, keeps: bool) -> None:
        self.pool, self.keeps = pool, keeps
        self._entries: OrderedDict[Prompt, _Entry] = OrderedDict()

    @property
    def num_tokens(self) -> int:
        """Tokens held for nobody who is running."""
        return sum(len(prompt) for prompt, entry in self._entries.items() if not entry.users)

    def take(self, prompt: Prompt) -> int | None:
        """First slot of the prompt, which then stays until it is left; None: it is not here."""
        entry = self._entries.get(prompt)
        if entry is None:
            return None
        self._entries.move_to_end(prompt)
        entry.users += 1
        return entry.start

    def put(self, prompt: Prompt, start: int) -> None:
        """A prompt that was just written at these slots, with one user; it owns them from now on."""
        self._entries[prompt] = _Entry(start, 1)

    def leave(self, prompt: Prompt) -> None:
        self._entries[prompt].users -= 1

    def evict(self) -> bool:
        """Give back the room of the prompt that was used longest ago; False: there is none without users."""
        for prompt, entry in self._entries.items():
            if not entry.users:
                self.pool.give_trunk(entry.start, len(prompt))
                del self._entries[prompt]
                return True
        return False

    def clear(self) -> None:
        """To be called between runs, when weights change: nobody uses a prompt then."""
        while self.evict():
            pass

    def forget(self) -> None:
        """The pool has been emptied."""
        self._entries.clear()
