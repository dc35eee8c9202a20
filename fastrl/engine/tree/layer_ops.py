"""rms_norm, silu_mul, rotate: the operations of a decoder layer other than products and attention.

float32 on a CPU goes to C++, one pass over memory each; other types and devices go to PyTorch. No gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import fastrl._C as _C


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight [T, D], over the last dimension.

    Args:
        x: [T, D]. weight: [D], of x's dtype and device.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    if not _goes_to_cpp(x):
        return F.rms_norm(x, weight.shape, weight, eps)
    x, weight = x.contiguous(), weight.contiguous()
    out = torch.empty_like(x)
    _C.rms_norm_cpu(
        x=x.data_ptr(), weight=weight.data_ptr(), rows=x.shape[0], width=x.shape[1], eps=eps,
        out=out.data_ptr(), num_threads=torch.get_num_threads(),
    )  # fmt: skip
    return out


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up [T, F] of gate_up [T, 2 F], the gate's columns first; silu(z) = z sigmoid(z).

    Source: Shazeer 2020, "GLU Variants Improve Transformer" (SwiGLU).
    """
    if not _goes_to_cpp(gate_up):
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    gate_up = gate_up.contiguous()
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((rows, width))
    _C.silu_mul_cpu(
        gate_up=gate_up.data_ptr(), rows=rows, width=width, out=out.data_ptr(),
        num_threads=torch.get_num_threads(),
    )  # fmt: skip
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x with rotary embedding: halves (a, b) of a head become (a cos - b sin, b cos + a sin).

    Args:
        x: [T, H, K], each token's heads contiguous. It may be overwritten; the result may share its memory.
        cos, sin: [T, K / 2], of x's dtype and device.
    Source: Su et al. 2021, "RoFormer", eq. 34, with the halves of Hugging Face's models.
    """
    tokens, heads, width = x.shape
    if not _goes_to_cpp(x):
        halves = x.view(tokens, heads, 2, width // 2)
        out, sin = halves * cos[:, None, None], sin[:, None]
        out[:, :, 0].addcmul_(halves[:, :, 1], sin, value=-1)
        out[:, :, 1].addcmul_(halves[:, :, 0], sin)
        return out.view(tokens, heads, width)
    assert x.stride()[1:] == (width, 1), "each token's heads are contiguous"
    cos, sin = cos.contiguous(), sin.contiguous()
    _C.rotate_cpu(
        x=x.data_ptr(), rows=tokens, heads=heads, half=width // 2, stride=x.stride(0),
        cos=cos.data_ptr(), sin=sin.data_ptr(), num_threads=torch.get_num_threads(),
    )  # fmt: skip
    return x


def _goes_to_cpp(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype is torch.float32
