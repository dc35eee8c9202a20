"""linear_logprob: log-probs of given tokens straight from hidden states and the head's weight."""

from __future__ import annotations

from torch import Tensor

from fastrl.kernels._checks import check_ids, refuse
from fastrl.kernels._dispatch import Backend, Implementation, anywhere, cpu_only, no_float64, pick
from fastrl.kernels._head import Head, check_head
from fastrl.kernels._outputs import LogprobOutput
from fastrl.kernels.linear_logprob.cpp_impl import linear_logprob_cpp
from fastrl.kernels.linear_logprob.reference import linear_logprob_reference
from fastrl.kernels.linear_logprob.torch_impl import linear_logprob_torch

OP = "linear_logprob"
IMPLEMENTATIONS = (
    Implementation("cpp", linear_logprob_cpp, cpu_only),
    Implementation("torch", linear_logprob_torch, no_float64),
    Implementation("reference", linear_logprob_reference, anywhere),
)


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_rows: int | None = None,
    backend: Backend = "auto",
) -> LogprobOutput:
    """Log-prob, entropy, self-certainty and rank of each given token, without a [T, V] tensor.

        z[t] = cap(logit_scale * (weight @ hidden[t] + bias)) / temperature[t]
        cap(x) = softcap * tanh(x / softcap)
        logprobs[t] = z[t, ids[t]] - logsumexp(z[t])
        entropy[t] = -sum over v of p[t, v] * log p[t, v],  p = softmax(z)
        self_certainty[t] = KL(uniform || p[t]) = logsumexp(z[t]) - mean(z[t]) - log V
        top1[t] = z[t, ids[t]] == max(z[t])

    Args:
        hidden: [T, D] bf16, fp16 or fp32 (fp64: reference alone). Row t predicts ids[t]: the caller shifts.
        weight: [V, D]; rounded to hidden's dtype where they differ.
        ids: [T] int64 in [0, V).
        bias: [V].
        temperature: > 0, a number or [T].
        softcap: > 0, or None for no cap.
        chunk_rows: rows whose logits are in memory at once; None: about 256 MiB of them.
    Returns: LogprobOutput, differentiable in hidden, weight and bias through logprobs and entropy. Each
        gradient has the dtype of its input. Rows whose incoming gradients are 0 cost nothing in the backward.
    Raises:
        ValueError: shapes disagree or a value is out of range.   TypeError: any other dtype.
        RuntimeError: the named backend is not usable here.
    Numerics: float32 logits and accumulation; a token likelier than all others is scored as
        -log1p(sum of the others), so that its log-prob does not round to 0 before its gradient does.
    Cost: one [chunk_rows, V] float32 buffer; the backward makes the logits again.
    """
    head = Head(weight, bias, temperature, logit_scale, softcap)
    check_head(OP, hidden, ids, head)
    check_ids(OP, ids, weight.shape[0])
    if chunk_rows is not None and chunk_rows < 1:
        refuse(OP, "chunk_rows", ">= 1 or None", chunk_rows)
    run = pick(OP, backend, IMPLEMENTATIONS, hidden.device, hidden.dtype)
    out: LogprobOutput = run(hidden, ids, head, chunk_rows)
    return out
