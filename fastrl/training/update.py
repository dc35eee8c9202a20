"""The policy update. The loss is a sum over one global denominator, so the gradient does not depend on how
the batch is split into micro-batches or over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastrl.config import RlConfig, microbatch_tokens
from fastrl.ops import linear_grpo_loss
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients
from fastrl.policy.packing import PackedBatch
from fastrl.runtime.context import Context
from fastrl.runtime.distributed import Ranks
from fastrl.training.drift import Drift
from fastrl.training.parts import Parts
from fastrl.training.truncation import is_masked
from fastrl.types import Rollout, TrainSequence

Stats = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """Statistics of one batch's optimiser steps."""

    stats: Stats = field(default_factory=dict)
    """Statistics of the loss; on the device until metrics read them."""
    grad_norms: list[float] = field(default_factory=list)
    """Gradient norm of each optimiser step."""
    drift: Drift = field(default_factory=Drift)
    """Drift of trainer from engine, by the log-probs before the first optimiser step."""


def update_policy(
    context: Context[RlConfig], parts: Parts, rollouts: Sequence[Rollout], step: int
) -> UpdateResult:
    """Take epochs_per_batch x updates_per_epoch optimiser steps.

    Host syncs:
        per micro-batch      number of rows with gradient; with gspo or a sequence-level correction, and if a
                             sequence doesn't fit into one chunk of logits, also their number per sequence
        per optimiser step   gradient norm (fastrl.policy.optimizer)
        per training step    loss statistics (loss_metrics) and drift sums (Drift.metrics)
    """
    config, ranks = context.config, context.ranks
    none: list[Tensor | None] = [None] * len(rollouts)
    support = (config.rollout.top_k, config.rollout.top_p)
    old = score_rollouts(parts.policy, rollouts, config, *support) if is_off_policy(config) else none
    # no top-k or top-p: the policy's tokens may be outside the reference's support
    if parts.reference:
        ref = score_rollouts(parts.reference, rollouts, config)
    else:
        ref = scored_by_receiver(rollouts, config, parts.policy.device)
    result = UpdateResult()
    for _ in range(config.train.epochs_per_batch):
        for batch in split_groups(rollouts, config.train.updates_per_epoch, ranks):
            accumulate_gradients(
                parts.policy, rollouts, batch, old, ref, config, ranks, result.stats, result.drift
            )
            if not parts.policy.sharding:  # FSDP has summed them in the backward pass
                ranks.sum_gradients(parts.policy.parameters())
            norm = apply_gradients(parts.policy, parts.optimizer, config.train, step, parts.bad_steps)
            result.grad_norms.append(norm)
    return result


def is_off_policy(config: RlConfig) -> bool:
    """Return True if a batch gets several optimiser steps; with one, old_logprobs = logprobs."""
    return config.train.epochs_per_batch * config.train.updates_per_epoch > 1


def split_groups(rollouts: Sequence[Rollout], parts: int, ranks: Ranks) -> list[list[int]]:
    """Split this rank's rollouts into `parts` batches of whole groups; return their indices.

    The batches have about equally many groups over all ranks; the batch of a group does not depend on its
    rank, so a batch may be empty on this one.
    """
    groups = sorted({*ranks.gather(sorted({rollout.group for rollout in rollouts}))})
    part_of = {group: index * parts // max(1, len(groups)) for index, group in enumerate(groups)}
    return [[i for i, r in enumerate(rollouts) if part_of[r.group] == part] for part in range(parts)]


def accumulate_gradients(
    policy: Policy,
    rollouts: Sequence[Rollout],
    batch: Sequence[int],
    old: Sequence[Tensor | None],
    ref: Sequence[Tensor | None],
    config: RlConfig,
    ranks: Ranks,
    stats: Stats,
    drift: Drift | None = None,
) -> None:
    """Backpropagate sum(token losses) / denominator, one micro-batch at a time.

    The denominator counts all rollouts of the batch on all ranks, also those without gradient, which are
    skipped in the forward pass. Masked ones (loss.mask_truncated_completions) count as sequences without
    tokens, as in TRL.
    """
    counted = [rollouts[i] for i in batch if not is_masked(rollouts[i], config.loss)]
    num_tokens, num_sequences = ranks.sum([sum(len(r.completion_ids) for r in counted), len(batch)])
    denominator = config.loss.denominator(int(num_tokens), int(num_sequences), config.rollout.max_new_tokens)
    active = [i for i in batch if carries_gradient(rollouts[i], config)]
    batches = list(packed_batches(policy, rollouts, active, microbatch_tokens(config)))
    for number, (chosen, packed) in enumerate(batches, start=1):
        policy.set_gradient_sync(enabled=number == len(batches))
        sampled_with = join([old[i] for i in chosen])
        rollout_logprobs = torch.tensor(
            [logprob for i in chosen for logprob in rollouts[i].rollout_logprobs], device=policy.device
        )
        no_ref = rollout_logprobs[:0] if config.loss.kl_coef else None
        out = linear_grpo_loss(
            policy.hidden(packed),
            policy.head.weight,
            packed.ids,
            cu_seqlens=packed.row_cu_seqlens,
            # an empty micro-batch has one padding sequence without loss tokens
            advantages=torch.tensor([rollouts[i].advantage for i in chosen] or [0.0], device=policy.device),
            loss_mask=torch.ones_like(packed.ids, dtype=torch.bool),
            old_logprobs=sampled_with,
            ref_logprobs=join([ref[i] for i in chosen] or [no_ref]),
            rollout_logprobs=rollout_logprobs,
            config=config.loss,
            denominator=denominator,
            temperature=config.rollout.temperature,
            top_k=config.rollout.top_k,
            top_p=config.rollout.top_p,
            **policy.head.options(),
        )
        torch.autograd.backward(out.loss)
        add_stats(stats, {**out.stats, "loss_sum": out.loss.detach()})
        if drift is not None and chosen:
            trainer = out.logprobs if sampled_with is None else sampled_with
            drift.add(trainer, rollout_logprobs, out.computed, packed.row_cu_seqlens)


def packed_batches(
    policy: Policy, rollouts: Sequence[Rollout], active: Sequence[int], budget: int
) -> Iterator[tuple[list[int], PackedBatch]]:
    """Yield micro-batches of the active rollouts: the rollouts' indices, and the packed batch."""
    sequences = [train_sequence(rollouts[i]) for i in active]
    for chosen in policy.microbatches(sequences, budget, [rollouts[i].group for i in active]):
        yield [active[j] for j in chosen], policy.pack([sequences[j] for j in chosen])


def carries_gradient(rollout: Rollout, config: RlConfig) -> bool:
    """Return True if the rollout has an advantage, or the loss a KL or an entropy term; False if masked."""
    if is_masked(rollout, config.loss):
        return False
    return rollout.advantage != 0 or config.loss.kl_coef != 0 or config.loss.entropy_coef != 0


def train_sequence(rollout: Rollout) -> TrainSequence:
    prompt, completion = rollout.prompt_ids, rollout.completion_ids
    return TrainSequence(prompt + completion, [False] * len(prompt) + [True] * len(completion))


def score_rollouts(
    policy: Policy, rollouts: Sequence[Rollout], config: RlConfig, top_k: int = 0, top_p: float = 1.0
) -> list[Tensor | None]:
    """Return the log-probs of completion tokens under `policy`, without gradient.

    The entry of a rollout that carries no gradient is None.
    """
    out: list[Tensor | None] = [None] * len(rollouts)
    active = [i for i, rollout in enumerate(rollouts) if carries_gradient(rollout, config)]
    for chosen, packed in packed_batches(policy, rollouts, active, microbatch_tokens(config)):
        logprobs = policy.logprobs(packed, config.rollout.temperature, top_k, top_p)
        pieces = torch.split(logprobs, [len(rollouts[i].completion_ids) for i in chosen])
        for i, piece in zip(chosen, pieces, strict=True):
            out[i] = piece
    policy.reshard()
    return out


def scored_by_receiver(
    rollouts: Sequence[Rollout], config: RlConfig, device: torch.device
) -> list[Tensor | None]:
    """Return the reference log-probs that the transfer reward computed; None entries without a KL term."""
    if not config.loss.kl_coef:
        return [None] * len(rollouts)
    return [torch.tensor(rollout.extras["ref_logprobs"], device=device) for rollout in rollouts]


def join(pieces: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate the pieces that are not None; return None if all are."""
    present = [piece for piece in pieces if piece is not None]
    return torch.cat(present) if present else None


def add_stats(total: Stats, new: Stats) -> None:
    """Combine by suffix, on the device: _sum adds, _min and _max keep the extreme."""
    for name, value in new.items():
        if name not in total:
            total[name] = value.clone()
        elif name.endswith("_sum"):
            total[name] += value
        else:
            total[name] = (torch.minimum if name.endswith("_min") else torch.maximum)(total[name], value)
