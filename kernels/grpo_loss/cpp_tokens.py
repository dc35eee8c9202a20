"""Token math in C++ on the CPU."""

from __future__ import annotations

import torch

import fastrl._C as _C
from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import Selection, TokenGrads, TokenScores
from fastrl.kernels.grpo_loss import native


class CppTokens:
    def select(self, batch: LossBatch, leave_out: bool) -> Selection:
        selection, inputs = native.empty_selection(batch), native.native_batch(batch)
        skip = leave_out and batch.skips_zero_advantage
        _C.grpo_select_cpu(
            inputs.structure, skip, batch.needs_whole_sequences, native.native_selection(selection)
        )
        return selection

    def grads(self, batch: LossBatch, selection: Selection, scores: TokenScores) -> TokenGrads:
        grads, inputs = native.empty_grads(batch, scores), native.native_batch(batch)
        given = native.native_scores(scores)
        _C.grpo_loss_cpu(
            inputs.structure,
            native.native_selection(selection),
            given.structure,
            native.native_config(batch.config),
            native.native_results(grads),
            torch.get_num_threads(),
        )
        return grads
