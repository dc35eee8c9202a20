"""The cpt stage: continual pre-training of a Hugging Face checkpoint on raw text."""

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
    """Train next-token prediction on raw text.

        loss = - sum over trained tokens of log p(token | its document's earlier tokens) / number of tokens

    Documents are packed into rows of config.seq_len tokens (TextRows), and no token attends to another
    document. Rows are reshuffled every epoch. Held-out text is evaluated before the first step, after the
    last, and every config.held_out_every steps (eval/loss, eval/perplexity). A run folder with checkpoints of
    the same configuration resumes from the last one, bit for bit on one device. The ranks share the pieces of
    a step's rows.

    Returns: the last checkpoint's folder, for AutoModelForCausalLM and AutoTokenizer.
    Raises:
        FileNotFoundError, ValueError: a file or option is invalid.
        FloatingPointError: the gradient is NaN or infinite; no weight was changed.
    Cost: keeps the text and 4 bytes per token in memory.
    """
    texts = read_texts(config.data)
    held_out = read_held_out(config)
    learner = Learner.start(config, ranks or Ranks(), partial(load_policy, config))
    tokenizer = learner.policy.tokenizer
    rows = TextRows(encode_documents(texts, tokenizer), config.seq_len)
    eval_rows = TextRows(encode_documents(held_out, tokenizer), config.seq_len)
    config = with_steps(config, len(rows))
    learner.context = replace(learner.context, config=config)

    def learn(step: int) -> Metrics:
        batch = [piece for row in rows_of_step(config, len(rows), step) for piece in rows[row]]
        return update(learner, batch, config, step)

    def measured(step: int, metrics: Metrics) -> Metrics:
        every = config.held_out_every
        due = step in (0, config.train.num_steps) or (every > 0 and step % every == 0)
        found = {"perplexity": perplexity(metrics["loss"])} if metrics else {}
        return found | (held_out_metrics(learner, eval_rows, config) if due and len(eval_rows) else {})

    return learner.train(learn, measured)


def read_held_out(config: CptConfig) -> list[str]:
    if config.held_out is None:
        return []
    return read_texts(replace(config.data, path=config.held_out, limit=None))


def with_steps(config: CptConfig, num_rows: int) -> CptConfig:
    """Set train.num_steps = ceil(epochs * rows / batch_size) if config.epochs is set."""
    if config.epochs is None:
        return config
    num_steps = math.ceil(config.epochs * num_rows / config.batch_size)
    return replace(config, train=replace(config.train, num_steps=num_steps))


def rows_of_step(config: CptConfig, num_rows: int, step: int) -> list[int]:
    """Return batch_indices; the last step of the last epoch takes only the remaining rows."""
    indices = batch_indices(config, num_rows, step)
    if config.epochs is None:
        return indices
    return indices[: config.epochs * num_rows - step * config.batch_size]


@torch.no_grad()
def held_out_metrics(learner: Learner, rows: TextRows, config: CptConfig) -> Metrics:
    """Compute the mean negative log-prob (nats) of the trained tokens of all rows, and the perplexity."""
    pieces = [piece for row in range(len(rows)) for piece in rows[row]]
    with learner.run.time("eval"):
        loss, _ = accumulate(learner.policy, pieces, microbatch_tokens(config), learner.ranks)
    return {
        "eval/loss": loss,
        "eval/perplexity": perplexity(loss),
        "eval/num_tokens": float(sum(piece.num_loss_tokens for piece in pieces)),
    }


def perplexity(loss: float) -> float:
    """Return exp(loss); infinity on overflow."""
    return float(torch.tensor(loss).exp())
