"""sample_tokens: draw one token per request with given random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._checks import check_device, check_dtype, check_shape, refuse
from fastrl.kernels._dispatch import Backend, Implementation, anywhere, cpu_only, pick
from fastrl.kernels.sample_tokens.reference import sample_tokens_reference
from fastrl.kernels.sample_tokens.torch_impl import sample_tokens_torch

OP = "sample_tokens"


def _cpp(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, source: Tensor | None
) -> tuple[Tensor, Tensor]:
    from fastrl.kernels.sample_tokens.cpp_impl import sample_tokens_cpp

    return sample_tokens_cpp(logits, uniforms, temperature, top_k, top_p, source)


IMPLEMENTATIONS = (
    Implementation("cpp", _cpp, cpu_only),
    Implementation("torch", sample_tokens_torch, anywhere),
    Implementation("reference", sample_tokens_reference, anywhere),
)


def sample_tokens(
    logits: Tensor,
    uniforms: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    source: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Draw one token per request by inverting the cumulative distribution.

        p = softmax(keep(logits / temperature)),   token = first i with p[0] + ... + p[i] > u

    keep(.) keeps the top-k tokens and ties with the k-th; of those, the smallest set of most likely tokens
    with mass >= top_p (ties: smaller id first). Temperature 0: the most likely token (ties: smallest id).

    Args:
        logits: [E, V], any float type.
        uniforms: float64 [R] in [0, 1).
        temperature: >= 0. top_k: 0 for all. top_p: in (0, 1].
        source: int64 [R], request r draws from logits[source[r]]; None: R = E, from logits[r].
    Returns: token ids int64 [R], and their log-probs (nats) float32 [R] under p; at temperature 0 under
        softmax(logits). If a row's sum is NaN: the last token, log-prob NaN.
    Raises: ValueError, TypeError: a shape, dtype or option is not as above.
    Numerics: exponentials in fp32, sums in float64. Backends differ by rounding, so a u within about 1e-7
        of a token's boundary may draw the neighbouring token.
    """
    if logits.dim() != 2:
        refuse(OP, "logits", "shape (E, V)", tuple(logits.shape))
    check_dtype(OP, "uniforms", uniforms, torch.float64)
    check_device(OP, "uniforms", uniforms, logits.device)
    if source is None:
        check_shape(OP, "uniforms", uniforms, logits.shape[:1])
    else:
        check_dtype(OP, "source", source, torch.int64)
        check_shape(OP, "source", source, uniforms.shape)
    if not temperature >= 0:
        refuse(OP, "temperature", ">= 0", temperature)
    if top_k < 0:
        refuse(OP, "top_k", ">= 0", top_k)
    if not 0 < top_p <= 1:
        refuse(OP, "top_p", "in (0, 1]", top_p)
    run = pick(OP, backend, IMPLEMENTATIONS, logits.device, logits.dtype).run
    drawn: tuple[Tensor, Tensor] = run(logits, uniforms, temperature, top_k, top_p, source)
    return drawn
