"""Packs TRL's padded batches: removes padding and merges shared prompts."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastrl.config import refuse
from fastrl.policy.head import LmHead, lm_head_of
from fastrl.policy.model import check_layers
from fastrl.policy.packing import PackedBatch, pack
from fastrl.policy.prefix_attention import PREFIX
from fastrl.types import TrainSequence

UNREAD_SCALES = ("output_multiplier", "lm_head_multiplier")
WithHead = Callable[[Tensor, LmHead], Any]


def prepare(model: Any) -> None:
    """Let the model of a TRL trainer accept packed prefix trees in addition to its usual inputs.

    model(packed=run) calls run(model) inside the model's forward, so that wrappers (data parallelism,
    adapters, autocast) take part as in any forward pass.
    """
    config = model.config.get_text_config()
    check_layers(model, PREFIX)
    for name in UNREAD_SCALES:
        if getattr(config, name, None) is not None:
            refuse("model", name, "a head without it in FastGRPOTrainer", getattr(config, name))
    model.set_attn_implementation(PREFIX)
    before = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, packed: Callable[[Any], Any] | None = None, **kwargs: Any) -> Any:
        return before(*args, **kwargs) if packed is None else packed(self)

    model.forward = types.MethodType(forward, model)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Packed rows of a padded batch, with T completion tokens to predict."""

    rows: Tensor
    """[S] int64, indices of the packed rows in the batch."""
    tokens: Tensor
    """[B, C] bool, the T tokens, in row-major order."""
    batch: PackedBatch

    def of(self, values: Tensor) -> Tensor:
        """Select the T tokens' values from [B, C]."""
        return values[self.tokens]

    def of_optional(self, values: Tensor | None) -> Tensor | None:
        """Return None for None, else the T tokens' values."""
        return None if values is None else self.of(values)

    def run(self, model: Any, with_head: WithHead, float_head: bool) -> Any:
        """Run the model; return with_head(hidden [T, D], head) for the states that predict the tokens.

        Args:
            model: the trainer's model, wrapped or not.
            float_head: compute the head in float32 (cast_lm_head_to_fp32).
        """

        def inside(causal: Any) -> Any:
            batch = self.batch
            out = causal.base_model(
                input_ids=batch.input_ids[None],
                position_ids=batch.position_ids[None],
                use_cache=False,
                prefix_layout=batch.tree,
            )
            hidden = out.last_hidden_state[0].index_select(0, batch.rows)
            device = hidden.device.type
            if float_head:
                hidden = hidden.float()
            elif torch.is_autocast_enabled(device):
                hidden = hidden.to(torch.get_autocast_dtype(device))
            with torch.autocast(device, enabled=False):
                return with_head(hidden, lm_head_of(causal))

        return model(packed=inside)


def pack_rows(
    ids: Tensor, seen: Tensor, width: int, rows: Tensor | None = None, share: bool = True
) -> PackedRows:
    """Pack rows of a padded batch, and merge their shared prefixes.

    Args:
        ids: [B, L] tokens, padded on either side.
        seen: [B, L], true for tokens that are not padding.
        width: C, the number of completion columns, the last ones.
        rows: [S] rows to pack; None: all rows with a completion.
        share: merge shared prefixes.
    """
    seen = seen.bool()
    if rows is None:
        rows = seen[:, -width:].any(1).nonzero()[:, 0]
    tokens = torch.zeros_like(seen[:, -width:])
    tokens[rows] = seen[rows, -width:]
    sequences = []
    for row_ids, row_seen in zip(ids[rows].tolist(), seen[rows].tolist(), strict=True):
        predicted = [column >= len(row_ids) - width for column, there in enumerate(row_seen) if there]
        kept = [token for token, there in zip(row_ids, row_seen, strict=True) if there]
        sequences.append(TrainSequence(kept, predicted))
    return PackedRows(rows, tokens, pack(sequences, ids.device, share))
