"""Token math in CUDA; no host sync."""

from __future__ import annotations

import torch

import fastrl._C as _C
from fastrl.kernels._batch import LossBatch
from fastrl.kernels._tokens import Selection, TokenGrads, TokenScores
from fastrl.kernels.grpo_loss import native


class CudaTokens:
    def select(self, batch: LossBatch, leave_out: bool) -> Selection:
        selection, inputs = native.empty_selection(batch), native.native_batch(batch)
        skip = leave_out and batch.skips_zero_advantage
        _C.grpo_select_cuda(
            inputs.structure, skip, batch.needs_whole_sequences, native.native_selection(selection), _stream()
        )
        return selection

    def grads(self, batch: LossBatch, selection: Selection, scores: TokenScores) -> TokenGrads:
        grads, inputs = native.empty_grads(batch, scores), native.native_batch(batch)
        given = native.native_scores(scores)
        size = _C.grpo_scratch_size(scores.logprobs.shape[0], batch.cu_seqlens.shape[0] - 1)
        scratch = torch.empty(size, dtype=torch.float32, device=scores.logprobs.device)
        _C.grpo_loss_cuda(
            inputs.structure,
            native.native_selection(selection),
            given.structure,
            native.native_config(batch.config),
            native.native_results(grads),
            scratch.data_ptr(),
            _stream(),
        )
        return grads


def _stream() -> int:
    return torch.cuda.current_stream().cuda_stream
