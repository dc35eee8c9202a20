"""The passes of linear_logprob: a forward over tiles, and a backward that recomputes active rows' logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._gradients import Gradients, Needed
from fastrl.kernels._head import Head
from fastrl.kernels._layout import Layout, kept_layout, tiled_layout
from fastrl.kernels._passes import HeadPass, Scored
from fastrl.kernels._rows import RowMath, RowScores
from fastrl.kernels._selection import active_rows, split_rows

INVARIANT_ROWS = 256


def score(
    hidden: Tensor, ids: Tensor, head: Head, math: RowMath, chunk_rows: int | None, invariant: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return (logprobs, entropy, self_certainty, top1, running, floor) of all rows, for the operator."""
    num_rows, device = hidden.shape[0], hidden.device
    layout = layout_of(hidden, head, chunk_rows, invariant)
    everything = torch.arange(num_rows, device=device)
    chunks = split_rows(everything, layout, invariant, num_rows)
    head_pass = HeadPass(hidden, ids, head, math, layout, len(chunks[0]))
    accurate = head_pass.products.accurate
    final = torch.empty(3, num_rows, dtype=accurate, device=device)
    top1 = torch.empty(num_rows, dtype=torch.bool, device=device)
    running = torch.empty(3, num_rows, dtype=torch.float64, device=device)
    floor = torch.empty(num_rows if head.has_support else 0, dtype=accurate, device=device)
    begin = 0
    for rows in chunks:
        scored = head_pass.score(head_pass.take(rows))
        count = min(len(rows), num_rows - begin)
        target, valid = slice(begin, begin + count), slice(0, count)
        scores = scored.scores.part(valid)
        for index, values in enumerate((scores.logprobs, scores.entropy, scores.self_certainty)):
            final[index, target] = values
        for index, values in enumerate((scores.max, scores.others, scores.target)):
            running[index, target] = values
        top1[target] = scores.top1
        if scored.floor is not None:
            floor[target] = scored.floor[valid]
        begin += count
    return final[0].clone(), final[1].clone(), final[2].clone(), top1, running, floor


def layout_of(hidden: Tensor, head: Head, chunk_rows: int | None, invariant: bool) -> Layout:
    if invariant and chunk_rows is None:
        chunk_rows = INVARIANT_ROWS
    if head.has_support:
        return kept_layout(hidden.device, head.vocab, chunk_rows, one_piece=True)
    return tiled_layout(hidden.device, head.vocab, chunk_rows)


def differentiate(
    hidden: Tensor,
    ids: Tensor,
    head: Head,
    math: RowMath,
    chunk_rows: int | None,
    invariant: bool,
    max_active_rows: int | None,
    incoming: tuple[Tensor, Tensor],
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    needed: Needed,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients in hidden, weight and bias.

    Args:
        incoming: gradients in logprobs and entropy.
        saved: logprobs, entropy, running and floor of the forward pass.
    """
    grad_logprobs, grad_entropy = incoming
    rows = active_rows((grad_logprobs != 0) | (grad_entropy != 0), max_active_rows)
    layout = layout_of(hidden, head, chunk_rows, invariant)
    chunks = split_rows(rows, layout, invariant, hidden.shape[0])
    head_pass = HeadPass(hidden, ids, head, math, layout, len(chunks[0]))
    gradients = Gradients(hidden, head, head_pass.products, needed, one_chunk=len(chunks) == 1)
    for rows in chunks:
        chunk = head_pass.take(rows)
        scored = _restore(*saved, rows)
        chunk_logprobs, chunk_entropy = (_take(grad, rows) for grad in incoming)
        gradients.add(chunk, head_pass.gradients_again(chunk, scored, chunk_logprobs, chunk_entropy))
    return gradients.finish()


def _restore(logprobs: Tensor, entropy: Tensor, running: Tensor, floor: Tensor, rows: Tensor) -> Scored:
    """Return the scores with the fields that a gradient reads; the others are placeholders."""
    largest, others, target = _take(running, rows).unbind()
    logprobs, entropy = _take(logprobs, rows), _take(entropy, rows)
    total = (others + (target - largest).exp()).to(logprobs.dtype)
    top1 = target >= largest
    scores = RowScores(
        largest, others, others, others, others, target, total, logprobs, entropy, logprobs, top1
    )
    return Scored(scores, _take(floor, rows) if floor.numel() else None)


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """Return values[..., rows], and 0 at padding."""
    last = max(0, values.shape[-1] - 1)
    taken = values.index_select(-1, rows.clamp(max=last))
    return taken.masked_fill(rows > last, 0)
