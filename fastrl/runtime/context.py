"""The context of a stage: its configuration, its run folder and its ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fastrl.config import Config
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, slots=True)
class Context(Generic[C]):
    """A stage's configuration, its run folder and its ranks."""

    config: C
    run: Run
    ranks: Ranks = field(default_factory=Ranks)

    @classmethod
    def start(cls, config: C, ranks: Ranks | None = None) -> Context[C]:
        """Open the run folder of `config`; only the first rank writes to it.

        Raises:
            ValueError: the folder holds something else; see Run.start.
        """
        ranks = ranks or Ranks()
        return cls(config, Run.start(config, writes=ranks.first), ranks)
