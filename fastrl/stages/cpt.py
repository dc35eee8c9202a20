"""Continual pre-training: a Hugging Face checkpoint and raw text in, a checkpoint out."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fastrl.config import CptConfig, microbatch_tokens
from fastrl.data.texts import TextRows, encode_documents, read_texts
from fastrl.runtime.distributed import Ranks
from fastrl.stages.sft import accumulate, load_policy, update
from fastrl.training.learner import Learner, batch_indices
from fastrl.types import Metrics


def run_cpt(config: CptConfig, ranks: Ranks | None = None) -> Path:
    """Go on with what a base model was made with: predict the next token of raw text.

        loss = - sum over trained tokens of log p(token | those of its document before it) / their number

    Documents are packed into rows of config.seq_len tokens (TextRows) and no token sees another document.
    Rows are reshuffled in every epoch. Held-out text is measured before the first step (eval/loss,
    eval/perplexity), after the last, and every config.held_out_every. A run folder with checkpoints of the
    same configuration goes on from the last one, bit for bit on one device. The pieces of a step's rows are
    dealt out to the ranks.

    Returns: the last checkpoint's folder, as AutoModelForCausalLM and AutoTokenizer load it.
    Raises:
        FileNotFoundError, ValueError: a file or option that can't be used.
        FloatingPointError: the gradient is NaN or infinite; no weight was changed.
    Cost: the text and 4 bytes a token stay in memory.
    """
    texts = read_texts(config.data)
    held_out = read_held_out(config)
    learner = Learner.start(config, ranks or Ranks(), partial(load_policy, config))
    tokenizer = learner.policy.tokenizer
    rows = TextRows(encode_documents(texts, tokenizer), config.seq_len)
    judged = TextRows(encode_documents(held_out, tokenizer), config.seq_len)
    config = with_steps(config, len(rows))
    learner.context = replace(learner.context, config=config)

    def learn(step: int) -> Metrics:
        batch = [piece for row in rows_of_step(config, len(rows), step) for piece in rows[row]]
        return update(learner, batch, config, step)

    def measured(step: int, metrics: Metrics) -> Metrics:
        every = config.held_out_every
        due = step in (0, config.train.num_steps) or (every > 0 and step % every == 0)
        found = {"perplexity": perplexity(metrics["loss"])} if metrics else {}
        return found | (held_out_metrics(learner, judged, config) if due and len(judged) else {})

    return learner.train(learn, measured)


def read_held_out(config: CptConfig) -> list[str]:
    if config.held_out is None:
        return []
    return read_texts(replace(config.data, path=config.held_out, limit=None))


def with_steps(config: CptConfig, num_rows: int) -> CptConfig:
    """train.num_steps = ceil(epochs * rows / batch_size), where epochs says when training ends."""
    if config.epochs is None:
        return config
    num_steps = math.ceil(config.epochs * num_rows / config.batch_size)
    return replace(config, train=replace(config.train, num_steps=num_steps))


def rows_of_step(config: CptConfig, num_rows: int, step: int) -> list[int]:
    """As batch_indices; the last step of the last epoch takes what is left of it."""
    indices = batch_indices(config, num_rows, step)
    if config.epochs is None:
        return indices
    return indices[: config.epochs * num_rows - step * config.batch_size]


@torch.no_grad()
def held_out_metrics(learner: Learner, rows: TextRows, config: CptConfig) -> Metrics:
    """Mean negative log-probability (nats) of the trained tokens of all rows, and its exponential."""
    pieces = [piece for row in range(len(rows)) for piece in rows[row]]
    with learner.run.time("eval"):
        loss, _ = accumulate(learner.policy, pieces, microbatch_tokens(config), learner.ranks)
    return {
        "eval/loss": loss,
        "eval/perplexity": perplexity(loss),
        "eval/num_tokens": float(sum(piece.num_loss_tokens for piece in pieces)),
    }


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is."""
    return float(torch.tensor(loss).exp())
