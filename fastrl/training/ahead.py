"""One-step off-policy sampling (rollout.max_staleness): the next batch is sampled during the update."""

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
    """Thread that samples and rewards one batch with the weights that the engines hold.

        batch 0, and each after a checkpoint:  sampled in its own step, with that step's weights
        batch t + 1 otherwise:                 sampled during update t, with the weights from before it

    So the weights that sample a batch depend only on its step, also in a run that is resumed from a periodic
    checkpoint. If a signal or an alarm ends training at another step, the batch sampled ahead is dropped, and
    its prompts are sampled again with newer weights.

    The thread shares tokenizers and the grader with the training thread, but the update uses neither. It has
    its own process group and its own phase timers.

    Metrics: time/wait_s is how long the loop waited for a batch; time/ahead_s, ahead_rollout_s and
    ahead_reward_s are the durations of the batch itself. ahead_s - wait_s is the time saved.

    Source: one-step off-policy training, Noukhovitch et al. 2024, arXiv:2410.18252.
    """

    def __init__(self, context: Context[RlConfig], parts: Parts) -> None:
        config, self.run, ranks = context.config, context.run, context.ranks
        self.parts = parts
        self.enabled = config.rollout.max_staleness > 0
        self._clock = Run(self.run.folder, writes=False)
        self._context = Context(config, self._clock, ranks.apart() if self.enabled else ranks)
        self._thread = one_thread(AHEAD)
        self._sampled: Sampled | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until the thread has finished its batch, which is dropped."""
        self._thread.shutdown()

    @contextmanager
    def sampling(self, step: int, draw: int, allowed: bool) -> Iterator[None]:
        """Sample the batch of `step`, from draw number `draw` on, while the block runs; then wait for it.

        Does nothing unless `allowed` and rollout.max_staleness is 1.

        Raises: any error of sampling or of a reward, after the block.
        """
        if not (self.enabled and allowed):
            yield
            return
        batch = self._thread.submit(self._sample, step, draw)
        yield
        with self.run.time("wait"):
            wait([batch])
            if batch.exception() is not None:
                self.run.phase = self._clock.phase  # the thread's phase, for the error message
            self._sampled = batch.result()
        for phase, seconds in self._clock.seconds.items():
            self.run.seconds[AHEAD if phase == AHEAD else f"{AHEAD}_{phase}"] += seconds
        self._clock.seconds.clear()

    def take(self) -> Sampled | None:
        """Return the batch that was sampled ahead, and forget it; None if there is none."""
        sampled, self._sampled = self._sampled, None
        return sampled

    def metrics(self, sampled: Sampled) -> Metrics:
        """Return rollout/staleness: updates between the sampling weights and the weights being trained."""
        return {"rollout/staleness": float(sampled.staleness)} if self.enabled else {}

    def _sample(self, step: int, draw: int) -> Sampled:
        with self._clock.time(AHEAD):
            return sample_groups(self._context, self.parts, step, draw)
