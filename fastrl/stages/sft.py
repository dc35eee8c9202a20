"""Supervised fine-tuning: a Hugging Face checkpoint and a file of conversations in, a checkpoint out. And the
loop of every stage that learns to predict given tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from fastrl.build import choose_device
from fastrl.checkpoint import latest_checkpoint, load_optimizer, save_checkpoint
from fastrl.config import CptConfig, SftConfig, TrainConfig, microbatch_tokens
from fastrl.ops import linear_logprob
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer
from fastrl.policy.packing import TrainSequence
from fastrl.run import Run, read_metrics
from fastrl.seeding import seed_of
from fastrl.stages.conversations import read_conversations
from fastrl.stages.guards import Guards

ENTROPY_STEPS = 5
Metrics = dict[str, float]


@dataclass(slots=True)
class Learner:
    """A policy that predicts given tokens, in its run folder, at the step of the last checkpoint."""

    run: Run
    policy: Policy
    optimizer: torch.optim.Optimizer
    saved: Path | None
    """The last checkpoint; None: the run begins."""
    step: int
    bad_steps: BadSteps

    @classmethod
    def start(cls, config: SftConfig | CptConfig) -> Learner:
        """Open the run folder, and load what it goes on from."""
        run = Run.start(config)
        saved = latest_checkpoint(run.checkpoints)
        seed = seed_of(config.run.seed, "lora")
        policy = Policy.load(config.model, choose_device(config.run), saved, seed)
        optimizer = make_optimizer(policy, config.train)
        state: dict[str, Any] = {"step": 0} if saved is None else load_optimizer(saved, policy, optimizer)
        run.rewind(state["step"] if saved else -1)
        bad_steps = BadSteps(config.train, state.get("bad_steps"))
        return cls(run, policy, optimizer, saved, state["step"], bad_steps)

    def train(
        self,
        config: SftConfig | CptConfig,
        batch_of: Callable[[int], list[TrainSequence]],
        measured: Callable[[int, Metrics], Metrics],
        ended: Callable[[], bool] = lambda: False,
    ) -> Path:
        """Steps until config.train.num_steps, or until `ended`; returns the last checkpoint's folder.

        Args:
            batch_of: the sequences of a step.
            measured: metrics of the model as it is after so many steps, logged beside those of the update,
                which are given; before the first there are none.
        """
        every, last = config.run.save_every, config.train.num_steps
        with Guards(self.run, config, self.policy, self.optimizer) as guards:
            if self.saved is None and (start := measured(0, {})):
                self.run.log(0, start)
            while self.step < last and not ended():
                with self.run.time("update"):
                    batch = batch_of(self.step)
                    metrics = update(self.policy, self.optimizer, batch, config, self.step, self.bad_steps)
                self.step += 1
                self.run.log(self.step, metrics | measured(self.step, metrics))
                leaving = guards.leaving()
                if leaving or self.step == last or (every and self.step % every == 0) or ended():
                    self.saved = self.save(config)
                if leaving:
                    guards.leave(self.saved or self.run.checkpoints)
        return self.saved or self.run.checkpoints

    def save(self, config: SftConfig | CptConfig) -> Path:
        self.run.enter("checkpoint")
        state = {"step": self.step, "bad_steps": self.bad_steps.state()}
        return save_checkpoint(self.run.checkpoints, self.policy, self.optimizer, state, config.run.keep_last)


def run_sft(config: SftConfig) -> Path:
    """Fine-tune on the assistant's words of conversations.

        loss = - sum over trained tokens of weight * log p(token | all before it) / their weights' sum

    Prompts are read and not trained; the end token is trained, unless a row says that its turn goes on. Rows
    are reshuffled in every epoch. A run folder with checkpoints of the same configuration goes on from the
    last one.

    With config.max_entropy_rise, what the starting model makes of the rows is measured first (base/nll and
    base/entropy, nats a token), and training ends where the entropy of the last five steps' tokens is more
    than that share above it.

    Args:
        config: config.model.path is the checkpoint to start from, config.data.path the JSONL file.
    Returns: the last checkpoint's folder, as AutoModelForCausalLM and AutoTokenizer load it.
    Raises:
        FileNotFoundError, ValueError: a file, row or option that can't be used.
        FloatingPointError: the gradient is NaN or infinite; no weight was changed.
    """
    learner = Learner.start(config)
    policy, run = learner.policy, learner.run
    sequences = read_conversations(
        config.data.path,
        policy.tokenizer,
        system_prompt=config.data.system_prompt,
        limit=config.data.limit,
        prefix_weight=config.prefix_weight,
        thinking_tags=tags_to_drop(config),
    )
    check_fits(sequences, policy)

    def measured(step: int, metrics: Metrics) -> Metrics:
        if step or config.max_entropy_rise is None:
            return {}
        return under_base(policy, sequences, microbatch_tokens(config))

    def batch_of(step: int) -> list[TrainSequence]:
        return [sequences[index] for index in batch_indices(config, len(sequences), step)]

    return learner.train(config, batch_of, measured, lambda: ran_away(run, config))


def update(
    policy: Policy, optimizer: torch.optim.Optimizer, batch: list[TrainSequence],
    config: SftConfig | CptConfig, step: int, bad_steps: BadSteps,
) -> dict[str, float]:  # fmt: skip
    """One optimiser step on one batch."""
    num_tokens = max(1, sum(sequence.num_loss_tokens for sequence in batch))
    loss, entropy = accumulate(policy, batch, microbatch_tokens(config))
    rate = scheduled(config.train, config.schedule, step, config.final_share)
    train = replace(config.train, learning_rate=rate)
    grad_norm = apply_gradients(policy, optimizer, train, step, bad_steps)
    return {
        "loss": float(loss),
        "entropy": float(entropy),
        "grad_norm": grad_norm,
        "learning_rate": float(optimizer.param_groups[0]["lr"]),
        "num_tokens": float(num_tokens),
        **bad_steps.metrics(),
    }


def accumulate(
    policy: Policy, batch: list[TrainSequence], tokens_per_microbatch: int
) -> tuple[Tensor, Tensor]:
    """Add the batch's gradient to the weights'; returns the weighted mean loss and entropy of its trained
    tokens.

    Micro-batches are summed under one denominator, so how the batch is cut changes nothing.
    """
    loss, entropy = torch.zeros(2, device=policy.device)
    total = sum(sum(sequence.loss_weights) for sequence in batch) or 1.0
    for indices in policy.microbatches(batch, tokens_per_microbatch):
        chosen = [batch[index] for index in indices]
        packed = policy.pack(chosen)
        weights = torch.tensor([w for each in chosen for w in each.loss_weights]).to(policy.device) / total
        out = linear_logprob(policy.hidden(packed), policy.head.weight, packed.ids, **policy.head.options())
        part = -(out.logprobs * weights).sum()
        if part.requires_grad:
            part.backward()
        loss += part.detach()
        entropy += (out.entropy.detach() * weights).sum()
    return loss, entropy


@torch.no_grad()
def under_base(
    policy: Policy, sequences: list[TrainSequence], tokens_per_microbatch: int
) -> dict[str, float]:
    """Mean negative log-probability and entropy of the trained tokens as the model is now."""
    loss, entropy = accumulate(policy, sequences, tokens_per_microbatch)
    return {"base/nll": float(loss), "base/entropy": float(entropy)}


def tags_to_drop(config: SftConfig) -> tuple[str, str] | None:
    """Between which thoughts stand that are taken out."""
    opening, closing = config.thinking_tags
    return (opening, closing) if config.thinking == "drop" else None


def ran_away(run: Run, config: SftConfig) -> bool:
    """Whether the entropy of the last steps is further above the starting model's than is allowed."""
    if config.max_entropy_rise is None:
        return False
    lines = read_metrics(run.metrics_file)
    last = [line["entropy"] for line in lines if "entropy" in line][-ENTROPY_STEPS:]
    most = (1 + config.max_entropy_rise) * lines[0]["base/entropy"]
    return len(last) == ENTROPY_STEPS and sum(last) / len(last) > most


def scheduled(train: TrainConfig, schedule: str, step: int, final_share: float = 0.0) -> float:
    """learning_rate, or learning_rate * (f + (1 - f) * (1 + cos(pi * d)) / 2) with f = final_share and d the
    share of the steps after warm-up that are done."""
    if schedule == "constant" or step < train.warmup_steps:
        return train.learning_rate
    done = (step - train.warmup_steps) / max(1, train.num_steps - train.warmup_steps)
    falling = train.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return final_share * train.learning_rate + (1 - final_share) * falling


def batch_indices(config: SftConfig | CptConfig, num_rows: int, step: int) -> list[int]:
    """The rows of a step: a function of the seed and the step alone, each row once an epoch."""
    first = step * config.batch_size
    indices: list[int] = []
    for epoch in range(first // num_rows, (first + config.batch_size - 1) // num_rows + 1):
        order = list(range(num_rows))
        Random(seed_of(config.run.seed, "sft", epoch)).shuffle(order)
        here = range(max(first, epoch * num_rows), min(first + config.batch_size, (epoch + 1) * num_rows))
        indices += [order[place - epoch * num_rows] for place in here]
    return indices


def check_fits(sequences: list[TrainSequence], policy: Policy) -> None:
    longest = max(len(sequence.token_ids) for sequence in sequences)
    room = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None and longest > room:
        raise ValueError(
            f"[data] path: expected conversations of at most {room} tokens (the model's limit), got {longest}"
        )
