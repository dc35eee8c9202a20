"""Every op launches its kernels with the tensors' GPU as the current one; shown with fake tensors on cuda:1.

The twin of a GPU refuses a launch whose tensors lie on another device than the current one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.gpu_twin import gpu_twin
from fastrl.kernels._head import Scaling
from fastrl.kernels.linear_logprob.library import linear_logprob_backward_op
from fastrl.kernels.prefix_attention.library import lists_of, prefix_attention_backward_op
from fastrl.ops import (
    DecodePlan,
    LossConfig,
    TreeLayout,
    group_advantage,
    grpo_loss,
    linear_grpo_loss,
    linear_logprob,
    logits_grpo_loss,
    prefix_attention,
    tree_decode,
)

SECOND = torch.device("cuda:1")
TOKENS, WIDTH, VOCAB = 12, 8, 40


def floats(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=SECOND)


def integers(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device=SECOND)


def batch() -> dict[str, object]:
    return {
        "cu_seqlens": integers(4, dtype=torch.int32),
        "advantages": floats(3),
        "loss_mask": integers(TOKENS, dtype=torch.bool),
        "old_logprobs": floats(TOKENS),
        "config": LossConfig(loss_type="gspo"),
        "denominator": 2.0,
    }


def decode() -> None:
    plan = DecodePlan.make([[0, 5, 0, 3]], [0], [5, 5, 5], integers(3, 2, dtype=torch.int32), block_size=4)
    pool = floats(32, 2, WIDTH)
    tree_decode(floats(3, 4, WIDTH), pool, pool, plan, integers(3, dtype=torch.int32), scaling=1.0)


def attend() -> None:
    layout = TreeLayout.packed(np.asarray([0, 5, TOKENS]), SECOND)
    prefix_attention(*(floats(TOKENS, 2, 16) for _ in range(3)), layout)


def attend_backward() -> None:
    layout = TreeLayout.packed(np.asarray([0, 5, TOKENS]), SECOND)
    tensors = [floats(TOKENS, 2, 16) for _ in range(5)]
    lists = lists_of(layout, "triton", 16, None)
    tree = (layout.depths, layout.subtree_stop, layout.segments)
    prefix_attention_backward_op._init_fn(
        *tensors, floats(TOKENS, 2, dtype=torch.float32), *tree, lists, 1.0, None, None, "triton"
    )


def score_backward() -> None:
    column = floats(TOKENS, dtype=torch.float32)
    running, scaling = floats(3, TOKENS, dtype=torch.float64), Scaling(1.0, 1.0, None, 0, 1.0).encode()
    linear_logprob_backward_op._init_fn(
        column, column, floats(TOKENS, WIDTH), floats(VOCAB, WIDTH), None, integers(TOKENS), None, column,
        column, running, column[:0], scaling, None, False, None, "triton", [True, True, False],
    )  # fmt: skip


CALLS = {
    "group_advantage": lambda: group_advantage(floats(6, dtype=torch.float32), integers(6)),
    "grpo_loss": lambda: grpo_loss(floats(TOKENS, dtype=torch.float32), **batch()),
    "linear_grpo_loss": lambda: linear_grpo_loss(
        floats(TOKENS, WIDTH), floats(VOCAB, WIDTH), integers(TOKENS), **batch()
    ),
    "linear_logprob": lambda: linear_logprob(
        floats(TOKENS, WIDTH), floats(VOCAB, WIDTH), integers(TOKENS), top_p=0.9
    ),
    "linear_logprob, backward": score_backward,
    "logits_grpo_loss": lambda: logits_grpo_loss(floats(TOKENS, VOCAB), integers(TOKENS), **batch()),
    "prefix_attention": attend,
    "prefix_attention, backward": attend_backward,
    "tree_decode": decode,
}


@pytest.mark.parametrize("call", CALLS)
def test_kernels_are_launched_on_the_tensors_device(call):
    with gpu_twin() as twin:
        CALLS[call]()
    assert twin.kernels > 0
