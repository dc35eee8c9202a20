"""sample_tokens in C++ on the CPU; reads float32 logits in place, without a copy."""

from __future__ import annotations

import torch
from torch import Tensor

import fastrl._C as _C
from fastrl.kernels._checks import refuse


def sample_tokens_cpp(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float, source: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits, uniforms = logits.float(), uniforms.contiguous()
    if logits.stride(-1) != 1:
        logits = logits.contiguous()
    if source is not None and len(source):
        source = source.contiguous()
        low, high = (int(bound) for bound in source.aminmax())
        if low < 0 or high >= len(logits):
            refuse("sample_tokens", "source", f"rows in [0, {len(logits)})", f"{low} to {high}")
    ids = torch.empty(len(uniforms), dtype=torch.int64)
    logprobs = torch.empty(len(uniforms))
    _C.sample_tokens_cpu(
        logits=logits.data_ptr(),
        vocab=logits.shape[-1],
        stride=logits.stride(0),
        source=0 if source is None else source.data_ptr(),
        uniforms=uniforms.data_ptr(),
        requests=len(uniforms),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        ids=ids.data_ptr(),
        logprobs=logprobs.data_ptr(),
        num_threads=torch.get_num_threads(),
    )
    return ids, logprobs
