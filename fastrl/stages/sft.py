"""The sft stage, supervised fine-tuning on conversations; its loss also serves cpt."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrl.config import CptConfig, SftConfig, microbatch_tokens
from fastrl.data.conversations import read_conversations
from fastrl.data.templates import use_template
from fastrl.engine.build import choose_device
from fastrl.ops import linear_logprob
from fastrl.policy.model import Policy
from fastrl.policy.shard import Sharding
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run, read_metrics
from fastrl.runtime.seeding import seed_of
from fastrl.training.learner import Learner, batch_indices
from fastrl.types import Metrics, TrainSequence

ENTROPY_STEPS = 5


def run_sft(config: SftConfig, ranks: Ranks | None = None) -> Path:
    """Fine-tune on the assistant's turns of conversations.

        loss = - sum over trained tokens of weight * log p(token | all before it) / sum of their weights

    Prompt tokens are not trained. The end token is trained unless the row has end = false. Rows are
    reshuffled every epoch. A run folder with checkpoints of the same configuration resumes from the last one.
    The ranks share a step's rows, with one sum of weights for all.

    With config.max_entropy_rise, the initial model's loss and entropy on the rows are measured first
    (base/nll, base/entropy, nats per token). Training ends when the last five steps' mean entropy exceeds
    (1 + max_entropy_rise) * base/entropy.

    Args:
        config: config.model.path is the initial checkpoint, config.data.path the file of conversations.
    Returns: the last checkpoint's folder, for AutoModelForCausalLM and AutoTokenizer.
    Raises:
        FileNotFoundError, ValueError: a file, row or option is invalid.
        FloatingPointError: the gradient is NaN or infinite; no weight was changed.
    """
    ranks = ranks or Ranks()
    learner = Learner.start(config, ranks, partial(load_policy, config))
    policy = learner.policy
    use_template(policy.tokenizer, config.data)
    sequences = read_sequences(config, policy.tokenizer)
    check_fits(sequences, getattr(policy.model.config.get_text_config(), "max_position_embeddings", None))

    def learn(step: int) -> Metrics:
        batch = [sequences[index] for index in batch_indices(config, len(sequences), step)]
        return update(learner, batch, config, step)

    def measured(step: int, metrics: Metrics) -> Metrics:
        if step or config.max_entropy_rise is None:
            return {}
        return base_metrics(policy, sequences, microbatch_tokens(config), ranks)

    return learner.train(learn, measured, lambda: entropy_too_high(learner.run, config))


def read_sequences(config: SftConfig, tokenizer: Any) -> list[TrainSequence]:
    """Read the file's rows as token sequences with loss weights."""
    return read_conversations(
        config.data.path,
        tokenizer,
        system_prompt=config.data.system_prompt,
        limit=config.data.limit,
        prefix_weight=config.prefix_weight,
        thinking_tags=tags_to_drop(config),
        on_bad_row=config.data.on_bad_row,
        merge_system=config.data.merge_system,
    )


def load_policy(config: SftConfig | CptConfig, checkpoint: Path | None) -> Policy:
    seed, sharding = seed_of(config.run.seed, "lora"), Sharding.of(config.train)
    return Policy.load(config.model, choose_device(config.run), checkpoint, seed, sharding)


def update(learner: Learner, batch: list[TrainSequence], config: SftConfig | CptConfig, step: int) -> Metrics:
    """Take one optimizer step on one batch."""
    loss, entropy = accumulate(learner.policy, batch, microbatch_tokens(config), learner.ranks)
    applied = learner.apply(step)
    num_tokens = max(1, sum(sequence.num_loss_tokens for sequence in batch))
    return {"loss": loss, "entropy": entropy, "num_tokens": float(num_tokens)} | applied


def accumulate(
    policy: Policy, batch: list[TrainSequence], tokens_per_microbatch: int, ranks: Ranks | None = None
) -> tuple[float, float]:
    """Accumulate the gradient of this rank's share of the batch; return the weighted mean loss and entropy of
    the whole batch's trained tokens.

    All micro-batches have one denominator, so the split into micro-batches and ranks doesn't change the sum.
    """
    ranks = ranks or Ranks()
    sums = torch.zeros(2, device=policy.device)
    total = sum(sum(sequence.loss_weights) for sequence in batch) or 1.0
    mine = [batch[index] for index in ranks.share([len(sequence.token_ids) for sequence in batch])]
    batches = policy.microbatches(mine, tokens_per_microbatch)
    for number, indices in enumerate(batches, start=1):
        policy.set_gradient_sync(enabled=number == len(batches))
        sums += backward(policy, [mine[index] for index in indices], total)
    policy.reshard()
    loss, entropy = ranks.sum(sums.tolist())
    return loss, entropy


def backward(policy: Policy, chosen: list[TrainSequence], total: float) -> Tensor:
    """Return a micro-batch's contributions to loss and entropy, [2]; accumulate the loss's gradient if grad
    mode is on."""
    packed = policy.pack(chosen)
    weights = (
        torch.tensor([w for sequence in chosen for w in sequence.loss_weights]).to(policy.device) / total
    )
    out = linear_logprob(policy.hidden(packed), policy.head.weight, packed.ids, **policy.head.options())
    loss = -(out.logprobs * weights).sum()
    if loss.requires_grad:
        torch.autograd.backward(loss)
    return torch.stack([loss.detach(), (out.entropy.detach() * weights).sum()])


@torch.no_grad()
def base_metrics(
    policy: Policy, sequences: list[TrainSequence], tokens_per_microbatch: int, ranks: Ranks
) -> Metrics:
    """Measure the initial model's mean negative log-prob and entropy of the trained tokens."""
    loss, entropy = accumulate(policy, sequences, tokens_per_microbatch, ranks)
    return {"base/nll": loss, "base/entropy": entropy}


def tags_to_drop(config: SftConfig) -> tuple[str, str] | None:
    """Return the tags of thoughts to remove; None if thoughts stay."""
    opening, closing = config.thinking_tags
    return (opening, closing) if config.thinking == "drop" else None


def entropy_too_high(run: Run, config: SftConfig) -> bool:
    """Return True if the last steps' mean entropy exceeds (1 + max_entropy_rise) times the initial model's.

    Always False on ranks that don't write the metrics.
    """
    if config.max_entropy_rise is None or not run.writes:
        return False
    lines = read_metrics(run.metrics_file)
    last = [line["entropy"] for line in lines if "entropy" in line][-ENTROPY_STEPS:]
    most = (1 + config.max_entropy_rise) * lines[0]["base/entropy"]
    return len(last) == ENTROPY_STEPS and sum(last) / len(last) > most


def check_fits(sequences: list[TrainSequence], room: int | None) -> None:
    """Raise ValueError for conversations longer than the model's positions; a room of None sets no limit."""
    longest = max(len(sequence.token_ids) for sequence in sequences)
    if room is not None and longest > room:
        raise ValueError(
            f"[data] path: expected conversations of at most {room} tokens (the model's limit), got {longest}"
        )
