"""linear_grpo_loss: a chunk of rows is scored, given slopes and turned into gradients before the next one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._gradients import Gradients, Needed
from fastrl.kernels._head import Head
from fastrl.kernels._layout import Layout, kept_layout, tiled_layout
from fastrl.kernels._passes import Chunk, HeadPass, Scored
from fastrl.kernels._rows import RowMath
from fastrl.kernels._selection import active_rows, pack_sequences, split_rows
from fastrl.kernels._skipping import Skipped, add_likely_columns
from fastrl.kernels._tokens import Selection, TokenGrads, TokenMath, TokenScores

INVARIANT_ROWS = 256


@dataclass(frozen=True, slots=True)
class How:
    """What changes the cost and not the formula."""

    chunk_rows: int | None
    recompute: bool
    batch_invariant: bool
    skip_share: float
    max_active_rows: int | None


@dataclass(slots=True)
class Found:
    """Everything that comes out; logprobs and entropy have one place more, for padding."""

    logprobs: Tensor
    entropy: Tensor
    stats: list[Tensor]
    """One a piece."""
    skipped: Skipped

    def record(self, chunk: Chunk, scored: Scored) -> None:
        self.logprobs.index_copy_(0, chunk.rows, scored.scores.logprobs)
        self.entropy.index_copy_(0, chunk.rows, scored.scores.entropy)


class LossPass:
    def __init__(
        self,
        hidden: Tensor,
        ids: Tensor,
        head: Head,
        batch: LossBatch,
        rows: RowMath,
        tokens: TokenMath,
        how: How,
    ) -> None:
        self._hidden, self._head, self._batch = hidden, head, batch
        self._rows, self._tokens, self._how = rows, tokens, how
        if how.batch_invariant and how.chunk_rows is None:
            self._how = dataclasses.replace(how, chunk_rows=INVARIANT_ROWS)
        self.selection: Selection = tokens.select(batch, leave_out=True)
        self.ids = torch.where(self.selection.computed, ids, 0)

    def run(self, needed: Needed) -> tuple[Found, tuple[Tensor | None, Tensor | None, Tensor | None]]:
        active = active_rows(self.selection.computed, self._how.max_active_rows)
        found = self._nothing()
        chunks = None
        if any(needed) and not self._how.recompute:
            whole = self._batch.needs_whole_sequences
            layout = self._layout(keep=True, one_piece=whole)
            chunks = self._split(active, layout, whole)
        if chunks is not None:
            return found, self._one_pass(chunks, layout, found, needed)
        layout = self._layout(keep=False, one_piece=True)
        return found, self._two_passes(
            split_rows(active, layout, self._pads, len(self.ids)), layout, found, needed
        )

    def _one_pass(
        self, chunks: Sequence[Tensor], layout: Layout, found: Found, needed: Needed
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        head_pass = self._head_pass(layout, chunks)
        gradients = self._gradients(head_pass, chunks, needed)
        for rows in chunks:
            chunk = head_pass.take(rows)
            for begin in range(0, max(1, len(rows)), layout.piece):
                part = slice(begin, begin + layout.piece)
                piece = chunk.part(part)
                scored = head_pass.score(piece)
                grads = self._grads([piece], [scored])
                found.record(piece, scored)
                found.stats.append(grads.stats)
                head_pass.kept_gradient(chunk, part, scored, grads.grad_logprobs, grads.grad_entropy)
            if self._how.skip_share > 0:
                tiles = list(head_pass.kept_gradients(chunk))
                found.skipped += add_likely_columns(gradients, chunk, tiles, self._how.skip_share)
            else:
                gradients.add(chunk, head_pass.kept_gradients(chunk))
        return gradients.finish()

    def _two_passes(
        self, chunks: Sequence[Tensor], layout: Layout, found: Found, needed: Needed
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """All scores, all slopes, then logits once more for the gradients."""
        head_pass = self._head_pass(layout, chunks)
        taken = [head_pass.take(rows) for rows in chunks]
        scored = [head_pass.score(chunk) for chunk in taken]
        grads = self._grads(taken, scored)
        for chunk, of in zip(taken, scored, strict=True):
            found.record(chunk, of)
        found.stats.append(grads.stats)
        gradients = self._gradients(head_pass, chunks, needed)
        if not gradients.needed:
            return gradients.finish()
        begin = 0
        for chunk, of in zip(taken, scored, strict=True):
            part = slice(begin, begin + len(chunk.rows))
            by_entropy = None if grads.grad_entropy is None else grads.grad_entropy[part]
            gradients.add(chunk, head_pass.gradients_again(chunk, of, grads.grad_logprobs[part], by_entropy))
            begin = part.stop
        return gradients.finish()

    def _grads(self, chunks: Sequence[Chunk], scored: Sequence[Scored]) -> TokenGrads:
        def join(name: str) -> Tensor:
            values = [getattr(each.scores, name) for each in scored]
            return values[0] if len(values) == 1 else torch.cat(values)

        rows = chunks[0].rows if len(chunks) == 1 else torch.cat([chunk.rows for chunk in chunks])
        scores = TokenScores(
            rows, *(join(name) for name in ("logprobs", "entropy", "self_certainty", "top1"))
        )
        return self._tokens.grads(self._batch, self.selection, scores)

    @property
    def _pads(self) -> bool:
        return self._how.batch_invariant

    def _layout(self, keep: bool, one_piece: bool) -> Layout:
        device, vocab, chunk_rows = self._hidden.device, self._head.vocab, self._how.chunk_rows
        if keep or self._head.has_support:
            return kept_layout(device, vocab, chunk_rows, one_piece or self._head.has_support)
        return tiled_layout(device, vocab, chunk_rows)

    def _split(self, active: Tensor, layout: Layout, whole: bool) -> list[Tensor] | None:
        """Chunks; None where whole sequences are needed and can't be had."""
        chunks = split_rows(active, layout, self._pads, len(self.ids))
        if not whole or len(chunks) == 1:
            return chunks
        if self._pads or self._how.max_active_rows is not None:
            return None  # where sequences end is not known here
        return pack_sequences(active, self._batch.cu_seqlens, layout.rows)

    def _head_pass(self, layout: Layout, chunks: Sequence[Tensor]) -> HeadPass:
        most = max(len(rows) for rows in chunks)
        return HeadPass(self._hidden, self.ids, self._head, self._rows, layout, most)

    def _gradients(self, head_pass: HeadPass, chunks: Sequence[Tensor], needed: Needed) -> Gradients:
        one_chunk = len(chunks) == 1 and self._how.skip_share == 0
        return Gradients(self._hidden, self._head, head_pass.products, needed, one_chunk)

    def _nothing(self) -> Found:
        size, device = len(self.ids) + 1, self._hidden.device
        accurate = torch.promote_types(self._hidden.dtype, torch.float32)
        zeros = torch.zeros(2, size, dtype=accurate, device=device)
        return Found(zeros[0], zeros[1], [], Skipped.nothing(device))
