"""The training loop of SFT, CPT and reward-model stages, on one rank or many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from fastrl.config import CptConfig, RewardModelConfig, SftConfig, TrainConfig
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.checkpoint import Saver, latest_checkpoint, load_optimizer
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer
from fastrl.policy.schedule import learning_rate
from fastrl.report.reporter import Reporter
from fastrl.runtime.context import Context
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run
from fastrl.runtime.seeding import seed_of
from fastrl.training.card import ModelCard
from fastrl.training.guards import Guards
from fastrl.types import Metrics

Supervised = SftConfig | CptConfig | RewardModelConfig


@dataclass(slots=True)
class Learner:
    """A policy in training, with its optimiser and run folder."""

    context: Context[Any]
    policy: Policy
    optimizer: torch.optim.Optimizer
    saved: Path | None
    """Last checkpoint; None in a new run."""
    step: int
    bad_steps: BadSteps

    @classmethod
    def start(cls, config: Supervised, ranks: Ranks, load: Callable[[Path | None], Policy]) -> Learner:
        """Open the run folder and load the last checkpoint, if any.

        Args:
            load: returns the policy, given the last checkpoint's folder or None.
        """
        context = Context.start(config, ranks)
        run = context.run
        saved = latest_checkpoint(run.checkpoints, ranks)
        policy = load(saved)
        optimizer = make_optimizer(policy, config.train)
        state: dict[str, Any] = {"step": 0} if saved is None else load_optimizer(saved, policy, optimizer)
        run.rewind(state["step"] if saved else -1)
        bad_steps = BadSteps(config.train, state.get("bad_steps"))
        return cls(context, policy, optimizer, saved, state["step"], bad_steps)

    @property
    def run(self) -> Run:
        return self.context.run

    @property
    def ranks(self) -> Ranks:
        return self.context.ranks

    def train(
        self,
        learn: Callable[[int], Metrics],
        measured: Callable[[int, Metrics], Metrics],
        ended: Callable[[], bool] = lambda: False,
    ) -> Path:
        """Train until config.train.num_steps, or until `ended`; return the last checkpoint's folder.

        Args:
            learn: runs one step (its number) and returns its metrics.
            measured: returns further metrics, given the number of steps done and the last step's metrics ({}
                before the first).
            ended: returns True to stop early; the first rank decides.
        """
        config: Supervised = self.context.config
        last = config.train.num_steps
        guards = Guards(self.context, self.policy, self.optimizer)
        saver = Saver(self.run.checkpoints, config.run.keep_last, self.ranks, config.run.async_save)
        card = ModelCard(self.context)
        with Reporter(self.run, config) as reporter, guards, saver:
            if self.saved is None and (start := measured(0, {})):
                reporter.log(0, start)
            over = self.agreed(ended())
            while self.step < last and not over:
                with self.run.time("update"):
                    metrics = learn(self.step)
                self.step += 1
                reporter.log(self.step, metrics | measured(self.step, metrics))
                over, leaving = self.agreed(ended()), guards.leaving()
                if leaving or over or self.saves():
                    self.run.enter("checkpoint")
                    state = {"step": self.step, "bad_steps": self.bad_steps.state()}
                    self.saved = saver.save(self.policy, self.optimizer, state, card.text(self.step))
                if leaving:
                    saver.wait()
                    guards.leave(self.saved or self.run.checkpoints)
        return self.saved or self.run.checkpoints

    def saves(self) -> bool:
        """Return True if a checkpoint is due after the current step."""
        config: Supervised = self.context.config
        every = config.run.save_every
        return self.step == config.train.num_steps or (every > 0 and self.step % every == 0)

    def agreed(self, answer: bool) -> bool:
        """Return the first rank's answer on every rank."""
        return self.ranks.sum([float(self.ranks.first and answer)])[0] > 0

    def apply(self, step: int) -> Metrics:
        """Take an optimiser step with the gradients of all ranks; return its metrics."""
        if not self.policy.sharding:  # FSDP has summed them in the backward pass
            self.ranks.sum_gradients(self.policy.parameters())
        train: TrainConfig = self.context.config.train
        grad_norm = apply_gradients(self.policy, self.optimizer, train, step, self.bad_steps)
        metrics = {"grad_norm": grad_norm, "learning_rate": learning_rate(step, train)}
        return metrics | self.bad_steps.metrics()


def batch_indices(config: SftConfig | CptConfig, num_rows: int, step: int) -> list[int]:
    """Return the rows of a step; they depend only on seed and step, and each row occurs once per epoch."""
    first = step * config.batch_size
    indices: list[int] = []
    for epoch in range(first // num_rows, (first + config.batch_size - 1) // num_rows + 1):
        order = list(range(num_rows))
        Random(seed_of(config.run.seed, "sft", epoch)).shuffle(order)
        here = range(max(first, epoch * num_rows), min(first + config.batch_size, (epoch + 1) * num_rows))
        indices += [order[index - epoch * num_rows] for index in here]
    return indices
