"""Row math in C++ on the CPU; logits are float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels._rows import RowScores, Tile


class CppRows:
    def score(self, tile: Tile, scores: RowScores, vocab: int) -> None:
        inputs = _Inputs(tile)
        _C.score_tile(inputs.native, _native(scores), vocab, torch.get_num_threads())

    def gradient(
        self, tile: Tile, scores: RowScores, grad_logprobs: Tensor, grad_entropy: Tensor | None, out: Tensor
    ) -> None:
        inputs = _Inputs(tile)
        grad_logprobs = grad_logprobs.to(torch.float32).contiguous()
        grad_entropy = None if grad_entropy is None else grad_entropy.to(torch.float32).contiguous()
        _C.gradient_tile(
            tile=inputs.native,
            scores=_native(scores),
            grad_logprobs=grad_logprobs.data_ptr(),
            grad_entropy=0 if grad_entropy is None else grad_entropy.data_ptr(),
            out=out.data_ptr(),
            out_stride=out.stride(0),
            num_threads=torch.get_num_threads(),
        )

    def floors(self, tile: Tile, top_k: int, top_p: float) -> Tensor:
        inputs = _Inputs(tile)
        floors = torch.empty(tile.logits.shape[0], dtype=torch.float32)
        _C.support_floors(inputs.native, top_k, top_p, floors.data_ptr(), torch.get_num_threads())
        return floors


class _Inputs:
    """The native tile of addresses, and the tensors that own the memory."""

    def __init__(self, tile: Tile) -> None:
        self.ids = tile.ids.contiguous()
        self.bias = None if tile.bias is None else tile.bias.detach().to(torch.float32).contiguous()
        self.floor = None if tile.floor is None else tile.floor.contiguous()
        self.temperature = None
        inverse = 1.0
        if isinstance(tile.temperature, Tensor):
            self.temperature = tile.temperature.to(torch.float32).contiguous()
        else:
            inverse = 1 / tile.temperature
        self.native = _C.Tile.of(
            logits=tile.logits.data_ptr(),
            rows=tile.logits.shape[0],
            width=tile.logits.shape[1],
            stride=tile.logits.stride(0),
            first=tile.first,
            ids=self.ids.data_ptr(),
            floor=0 if self.floor is None else self.floor.data_ptr(),
            bias=0 if self.bias is None else self.bias.data_ptr(),
            temperature=0 if self.temperature is None else self.temperature.data_ptr(),
            inverse_temperature=inverse,
            logit_scale=tile.logit_scale,
            softcap=tile.softcap or 0.0,
        )


def _native(scores: RowScores) -> Any:
    return _C.RowScores.of(**{name: getattr(scores, name).data_ptr() for name in RowScores.__slots__})
