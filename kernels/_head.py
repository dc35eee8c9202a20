"""The LM head: weight, bias, logit scaling and sampling support."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._checks import FLOATS, check_device, check_dtype, check_shape, refuse
from fastrl.kernels._compiled import constant


@dataclass(frozen=True, slots=True)
class Scaling:
    """Scaling of raw logits to z, and the sampling support."""

    temperature: float | None
    """None: a tensor with one value per row."""
    logit_scale: float
    softcap: float | None
    top_k: int
    top_p: float

    def limits_support(self, vocab: int) -> bool:
        """Return True if top_k or top_p may exclude tokens."""
        return 0 < self.top_k < vocab or self.top_p < 1

    def encode(self) -> str:
        return _encode(self.temperature, self.logit_scale, self.softcap, self.top_k, self.top_p)

    @staticmethod
    def decode(text: str) -> Scaling:
        return Scaling(**json.loads(text))


# Custom ops take strings; torch.compile treats this one as a constant.
@constant
def _encode(
    temperature: float | None, logit_scale: float, softcap: float | None, top_k: int, top_p: float
) -> str:
    return json.dumps(dataclasses.asdict(Scaling(temperature, logit_scale, softcap, top_k, top_p)))


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
    top_k: int
    top_p: float

    @staticmethod
    def of(weight: Tensor, bias: Tensor | None, temperature: Tensor | None, scaling: Scaling) -> Head:
        """Return the head of an operator's arguments; `temperature` is used if scaling's is None."""
        divisor = temperature if scaling.temperature is None else scaling.temperature
        assert divisor is not None
        return Head(weight, bias, divisor, scaling.logit_scale, scaling.softcap, scaling.top_k, scaling.top_p)

    @property
    def scaling(self) -> Scaling:
        number = None if isinstance(self.temperature, Tensor) else float(self.temperature)
        return Scaling(number, self.logit_scale, self.softcap, self.top_k, self.top_p)

    @property
    def row_temperature(self) -> Tensor | None:
        return self.temperature if isinstance(self.temperature, Tensor) else None

    @property
    def vocab(self) -> int:
        return self.weight.shape[0]

    @property
    def has_support(self) -> bool:
        return self.scaling.limits_support(self.vocab)


def check_head(op: str, hidden: Tensor, ids: Tensor, head: Head) -> None:
    """Check shapes, dtypes, devices and options; check_values checks the tensors' values."""
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
    check_scaling(op, ids, head.scaling, head.row_temperature)


def check_scaling(op: str, ids: Tensor, scaling: Scaling, temperature: Tensor | None) -> None:
    if temperature is not None:
        check_shape(op, "temperature", temperature, ids.shape)
        check_device(op, "temperature", temperature, ids.device)
    elif scaling.temperature is None or not scaling.temperature > 0:
        refuse(op, "temperature", "> 0", scaling.temperature)
    if scaling.softcap is not None and not scaling.softcap > 0:
        refuse(op, "softcap", "> 0 or None", scaling.softcap)
    if scaling.top_k < 0:
        refuse(op, "top_k", ">= 0 (0: every token)", scaling.top_k)
    if not 0 < scaling.top_p <= 1:
        refuse(op, "top_p", "a number in (0, 1]", scaling.top_p)


def check_values(op: str, ids: Tensor, vocab: int, temperature: Tensor | None) -> None:
    """Check the tensors' values; only on a CPU, since on a GPU it would cost a host sync."""
    if ids.device.type != "cpu" or not ids.numel():
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab:
        refuse(op, "ids", f"values in [0, {vocab})", f"{low} to {high}")
    if temperature is not None and not bool((temperature > 0).all()):
        refuse(op, "temperature", "> 0", float(temperature.min()))
