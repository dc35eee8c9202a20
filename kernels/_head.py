"""The language-model head as the ops see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._checks import FLOATS, check_device, check_dtype, check_shape, refuse


@dataclass(frozen=True, slots=True)
class Head:
    """z[t] = cap(logit_scale * (weight @ hidden[t] + bias)) / temperature[t].

    cap(x) = softcap * tanh(x / softcap).
    """

    weight: Tensor
    bias: Tensor | None
    temperature: float | Tensor
    logit_scale: float
    softcap: float | None

    def temperature_of(self, rows: Tensor) -> float | Tensor:
        return self.temperature[rows] if isinstance(self.temperature, Tensor) else self.temperature


def check_head(op: str, hidden: Tensor, ids: Tensor, head: Head) -> None:
    check_dtype(op, "hidden", hidden, *FLOATS)
    check_dtype(op, "weight", head.weight, *FLOATS)
    check_dtype(op, "ids", ids, torch.int64)
    if hidden.dim() != 2:
        refuse(op, "hidden", "shape (T, D)", tuple(hidden.shape))
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[1] or head.weight.shape[0] < 1:
        refuse(op, "weight", f"shape (V, {hidden.shape[1]}) with V >= 1", tuple(head.weight.shape))
    check_shape(op, "ids", ids, hidden.shape[:1])
    check_device(op, "weight", head.weight, hidden.device)
    check_device(op, "ids", ids, hidden.device)
    if head.bias is not None:
        check_shape(op, "bias", head.bias, head.weight.shape[:1])
        check_dtype(op, "bias", head.bias, *FLOATS)
        check_device(op, "bias", head.bias, hidden.device)
    _check_scaling(op, hidden, head)


def _check_scaling(op: str, hidden: Tensor, head: Head) -> None:
    temperature = head.temperature
    if isinstance(temperature, Tensor):
        check_shape(op, "temperature", temperature, hidden.shape[:1])
        check_device(op, "temperature", temperature, hidden.device)
        if temperature.device.type == "cpu" and not bool((temperature > 0).all()):
            refuse(op, "temperature", "> 0", float(temperature.min()))
    elif not temperature > 0:
        refuse(op, "temperature", "> 0", temperature)
    if head.softcap is not None and not head.softcap > 0:
        refuse(op, "softcap", "> 0 or None", head.softcap)
