"""linear_grpo_loss on the CPU: library matrix products, everything between them in C++."""

from __future__ import annotations

from torch import Tensor

from fastrl.kernels._batch import LossBatch
from fastrl.kernels._head import Head
from fastrl.kernels._outputs import LossOutput
from fastrl.kernels.grpo_loss.cpp_impl import grpo_slopes_cpp
from fastrl.kernels.linear_grpo_loss.chunked import linear_grpo_loss_chunked
from fastrl.kernels.linear_logprob.cpp_impl import CppRows


def linear_grpo_loss_cpp(
    hidden: Tensor, ids: Tensor, head: Head, batch: LossBatch, chunk_rows: int | None
) -> LossOutput:
    return linear_grpo_loss_chunked(hidden, ids, head, batch, chunk_rows, CppRows(), grpo_slopes_cpp)
