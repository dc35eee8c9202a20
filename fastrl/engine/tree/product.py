"""Products with fused weights. oneDNN packs large ones once; `F.linear` would pack them in every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MIN_PACKED = 1 << 18
"""Elements of the smallest weight that is packed: those of the tiny worlds stay plain."""


@dataclass(slots=True)
class Product:
    """x W^T + b of several projections of one input, their weights W one below the other.

    The layers' parameters become views into W. While W is packed they hold no memory, unless
    `keep_plain`: `unpack` gives them their values back.
    """

    parameters: Sequence[Tensor]
    weight: Tensor | None
    """[sum of rows, D]; None while only the packed one exists."""
    bias: Tensor | None
    keep_plain: bool = False
    """Others read the parameters while the weight is packed."""
    packed: Tensor | None = None

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], *, keep_plain: bool = False) -> Product:
        parameters = [layer.weight for layer in layers]
        biases = [b for layer in layers if (b := getattr(layer, "bias", None)) is not None]
        return cls(parameters, _fuse(parameters), _fuse(biases) if biases else None, keep_plain)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T + b [T, rows] of x [T, D]."""
        if self.packed is None:
            return F.linear(x, _plain(self.weight), self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return out

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + x W^T + b [T, rows]."""
        if self.packed is None:
            residual = residual if self.bias is None else residual + self.bias
            return torch.addmm(residual, x, _plain(self.weight).t())
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")
        return out

    def pack(self) -> None:
        """Copy the weight into oneDNN's layout, if it is a large fp32 one on a CPU."""
        weight = self.weight
        if weight is None or not packs(weight.device.type, weight.dtype, weight.numel()):
            return
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        if not self.keep_plain:
            self.weight = None
            for parameter in self.parameters:
                parameter.data = weight.new_empty(1).expand(parameter.shape)

    def unpack(self) -> None:
        """Let the parameters hold the values again."""
        if self.weight is None and self.packed is not None:
            self.weight = self.packed.to_dense()
            _view(self.parameters, self.weight)
        self.packed = None


def packs(device: str, dtype: torch.dtype, num_elements: int) -> bool:
    """Return whether `pack` packs such a weight."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and num_elements >= _MIN_PACKED and device == "cpu" and dtype is torch.float32


def _plain(weight: Tensor | None) -> Tensor:
    assert weight is not None, "a product has its weight, packed or not"
    return weight


def _fuse(tensors: Sequence[Tensor]) -> Tensor:
    """Return one tensor of all rows; the tensors become views into it."""
    if len(tensors) == 1:
        return tensors[0].data
    fused = torch.cat([tensor.data for tensor in tensors])
    _view(tensors, fused)
    return fused


def _view(tensors: Sequence[Tensor], fused: Tensor) -> None:
    for tensor, rows in zip(tensors, torch.split(fused, [len(t) for t in tensors]), strict=True):
        tensor.data = rows
