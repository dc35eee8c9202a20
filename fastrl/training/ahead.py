"""The next step's batch is sampled while the policy learns from this one's: rollout.max_staleness."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from types import TracebackType

from fastrl.config import RlConfig
from fastrl.runtime.context import Context
from fastrl.runtime.run import Run
from fastrl.training.parts import Parts
from fastrl.training.sample import Sampled, one_thread, sample_groups
from fastrl.types import Metrics

AHEAD = "ahead"


class Ahead:
    """A thread in which engines sample one batch and rewards judge it, with the weights that engines hold.

        batch 0, and each after a checkpoint:  weights of its own step; nothing else goes on meanwhile
        batch t + 1 otherwise:                 weights before update t, while update t goes on

    So the weights that a batch saw are a function of its step, the same in every run, and in one that goes on
    from a checkpoint. A batch that is sampled ahead is dropped where a signal or an alarm ends training at a
    step that has no checkpoint of its own; its prompts are drawn again, by newer weights.

    What this thread shares with the one that trains: tokenizers and the grader, which the update does not
    use. Its ranks meet in a group of their own, its phases are timed apart.

    The run's metrics get time/wait_s, what the loop still waited for a batch, and of the batch itself
    time/ahead_s, ahead_rollout_s and ahead_reward_s: ahead_s - wait_s is gained.

    Source: one-step off-policy training, Noukhovitch et al. 2024, arXiv:2410.18252.
    """

    def __init__(self, context: Context[RlConfig], parts: Parts) -> None:
        config, self.run, ranks = context.config, context.run, context.ranks
        self.parts = parts
        self.asked = config.rollout.max_staleness > 0
        self._clock = Run(self.run.folder, writes=False)
        self._context = Context(config, self._clock, ranks.apart() if self.asked else ranks)
        self._thread = one_thread(AHEAD)
        self._sampled: Sampled | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The thread has ended: what it was sampling is finished, and dropped."""
        self._thread.shutdown()

    @contextmanager
    def sampling(self, step: int, draw: int, allowed: bool) -> Iterator[None]:
        """While the block runs, the batch of `step` is sampled from `draw` on, where it is `allowed` and
        rollout.max_staleness asks for it; afterwards it is there.

        Raises: what sampling or a reward raised, after the block.
        """
        if not (self.asked and allowed):
            yield
            return
        coming = self._thread.submit(self._sample, step, draw)
        yield
        with self.run.time("wait"):
            wait([coming])
            if coming.exception() is not None:
                self.run.phase = self._clock.phase  # where it happened
            self._sampled = coming.result()
        for phase, seconds in self._clock.seconds.items():
            self.run.seconds[AHEAD if phase == AHEAD else f"{AHEAD}_{phase}"] += seconds
        self._clock.seconds.clear()

    def take(self) -> Sampled | None:
        """The batch that was sampled ahead, once."""
        sampled, self._sampled = self._sampled, None
        return sampled

    def metrics(self, sampled: Sampled) -> Metrics:
        """rollout/staleness: updates between the weights that sampled the batch and those that learn."""
        return {"rollout/staleness": float(sampled.staleness)} if self.asked else {}

    def _sample(self, step: int, draw: int) -> Sampled:
        with self._clock.time(AHEAD):
            return sample_groups(self._context, self.parts, step, draw)
