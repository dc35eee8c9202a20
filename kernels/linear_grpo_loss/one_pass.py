"""The passes of linear_grpo_loss: each chunk of rows is scored and turned into gradients before the next."""

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
class PassOptions:
    """Options that change the cost but not the formula (except skip_share)."""

    chunk_rows: int | None
    recompute: bool
    batch_invariant: bool
    skip_share: float
    max_active_rows: int | None


@dataclass(slots=True)
class PassOutputs:
    """Outputs of the passes; logprobs and entropy have one extra entry for padding."""

    logprobs: Tensor
    entropy: Tensor
    stats: list[Tensor]
    """Statistics of each piece."""
    skipped: Skipped

    def record(self, chunk: Chunk, scored: Scored) -> None:
        """Store the scores of a chunk."""
        self.logprobs.index_copy_(0, chunk.rows, scored.scores.logprobs)
        self.entropy.index_copy_(0, chunk.rows, scored.scores.entropy)


class LossPass:
    """The computation of one call: selection, chunks, scores, gradients."""

    def __init__(
        self,
        hidden: Tensor,
        ids: Tensor,
        head: Head,
        batch: LossBatch,
        rows: RowMath,
        tokens: TokenMath,
        options: PassOptions,
    ) -> None:
        self._hidden, self._head, self._batch = hidden, head, batch
        self._rows, self._tokens, self._options = rows, tokens, options
        if options.batch_invariant and options.chunk_rows is None:
            self._options = dataclasses.replace(options, chunk_rows=INVARIANT_ROWS)
        self.selection: Selection = tokens.select(batch, leave_out=True)
        self.ids = torch.where(self.selection.computed, ids, 0)

    def run(self, needed: Needed) -> tuple[PassOutputs, tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Return the outputs, and the gradients in hidden, weight and bias (None for those not needed)."""
        active = active_rows(self.selection.computed, self._options.max_active_rows)
        found = self._nothing()
        chunks = None
        if any(needed) and not self._options.recompute:
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
        self, chunks: Sequence[Tensor], layout: Layout, found: PassOutputs, needed: Needed
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
            if self._options.skip_share > 0:
                tiles = list(head_pass.kept_gradients(chunk))
                found.skipped += add_likely_columns(gradients, chunk, tiles, self._options.skip_share)
            else:
                gradients.add(chunk, head_pass.kept_gradients(chunk))
        return gradients.finish()

    def _two_passes(
        self, chunks: Sequence[Tensor], layout: Layout, found: PassOutputs, needed: Needed
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Score all chunks, then recompute their logits for the gradients."""
        head_pass = self._head_pass(layout, chunks)
        taken = [head_pass.take(rows) for rows in chunks]
        scored = [head_pass.score(chunk) for chunk in taken]
        grads = self._grads(taken, scored)
        for chunk, scores in zip(taken, scored, strict=True):
            found.record(chunk, scores)
        found.stats.append(grads.stats)
        gradients = self._gradients(head_pass, chunks, needed)
        if not gradients.needed:
            return gradients.finish()
        begin = 0
        for chunk, scores in zip(taken, scored, strict=True):
            part = slice(begin, begin + len(chunk.rows))
            grad_logprobs = grads.grad_logprobs[part]
            grad_entropy = None if grads.grad_entropy is None else grads.grad_entropy[part]
            gradients.add(chunk, head_pass.gradients_again(chunk, scores, grad_logprobs, grad_entropy))
            begin = part.stop
        return gradients.finish()

    def _grads(self, chunks: Sequence[Chunk], scored: Sequence[Scored]) -> TokenGrads:
        def join(name: str) -> Tensor:
            values = [getattr(chunk_scores.scores, name) for chunk_scores in scored]
            return values[0] if len(values) == 1 else torch.cat(values)

        rows = chunks[0].rows if len(chunks) == 1 else torch.cat([chunk.rows for chunk in chunks])
        scores = TokenScores(
            rows, *(join(name) for name in ("logprobs", "entropy", "self_certainty", "top1"))
        )
        return self._tokens.grads(self._batch, self.selection, scores)

    @property
    def _pads(self) -> bool:
        return self._options.batch_invariant

    def _layout(self, keep: bool, one_piece: bool) -> Layout:
        device, vocab, chunk_rows = self._hidden.device, self._head.vocab, self._options.chunk_rows
        if keep or self._head.has_support:
            return kept_layout(device, vocab, chunk_rows, one_piece or self._head.has_support)
        return tiled_layout(device, vocab, chunk_rows)

    def _split(self, active: Tensor, layout: Layout, whole: bool) -> list[Tensor] | None:
        """Return the chunks; None if they must hold whole sequences and can't."""
        chunks = split_rows(active, layout, self._pads, len(self.ids))
        if not whole or len(chunks) == 1:
            return chunks
        if self._pads or self._options.max_active_rows is not None:
            return None  # the ends of sequences are not known on the host
        return pack_sequences(active, self._batch.cu_seqlens, layout.rows)

    def _head_pass(self, layout: Layout, chunks: Sequence[Tensor]) -> HeadPass:
        max_rows = max(len(rows) for rows in chunks)
        return HeadPass(self._hidden, self.ids, self._head, self._rows, layout, max_rows)

    def _gradients(self, head_pass: HeadPass, chunks: Sequence[Tensor], needed: Needed) -> Gradients:
        one_chunk = len(chunks) == 1 and self._options.skip_share == 0
        return Gradients(self._hidden, self._head, head_pass.products, needed, one_chunk)

    def _nothing(self) -> PassOutputs:
        size, device = len(self.ids) + 1, self._hidden.device
        accurate = torch.promote_types(self._hidden.dtype, torch.float32)
        zeros = torch.zeros(2, size, dtype=accurate, device=device)
        return PassOutputs(zeros[0], zeros[1], [], Skipped.zero(device))
