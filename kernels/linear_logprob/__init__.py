"""linear_logprob: log-probs of given tokens from hidden states and the LM head's weight."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.kernels._checks import check_at_least_one, whole_weight
from fastrl.kernels._compiled import constant
from fastrl.kernels._dispatch import Backend, pick
from fastrl.kernels._head import Head, check_head
from fastrl.kernels._outputs import LogprobOutput
from fastrl.kernels.linear_logprob.library import IMPLEMENTATIONS, linear_logprob_op
from fastrl.kernels.linear_logprob.reference import linear_logprob_reference

OP = "linear_logprob"


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    chunk_rows: int | None = None,
    batch_invariant: bool = False,
    max_active_rows: int | None = None,
    backend: Backend = "auto",
) -> LogprobOutput:
    """Return log-prob, entropy, self-certainty and top-1 flag of each given token, without a [T, V] tensor.

        z[t] = cap(logit_scale * (weight @ hidden[t] + bias)) / temperature[t]
        cap(x) = softcap * tanh(x / softcap)
        support[t] = the top_k largest z[t], of them the smallest set of mass >= top_p (with ties), and ids[t]
        logprobs[t] = z[t, ids[t]] - logsumexp of z[t] over support[t]
        entropy[t] = -sum over v of p[t, v] * log p[t, v],  p = softmax of z over the support
        self_certainty[t] = KL(uniform || softmax(z[t])) = logsumexp(z[t]) - mean(z[t]) - log V
        top1[t] = z[t, ids[t]] == max(z[t])

    Args:
        hidden: [T, D] bf16, fp16, fp32 or fp64. Row t predicts ids[t]; the caller shifts.
        weight: [V, D]; rounded to hidden's dtype if they differ. A sharded weight (DTensor) is gathered, and
            its gradient summed over the ranks.
        ids: [T] int64 in [0, V).
        bias: [V].
        temperature: > 0, a number or [T].
        softcap: > 0, or None for no cap.
        top_k, top_p: the sampler's values, so that ratios compare the distributions that were sampled from; 0
            and 1: every token.
        chunk_rows: rows processed at once; None: chosen by device and vocabulary.
        batch_invariant: pad chunks to chunk_rows (None: 256), so that all products have one shape and a row's
            results do not depend on other rows.
        max_active_rows: upper bound of the rows with incoming gradients other than 0; None: counted on the
            device; costs one host sync.
        backend: "cpp" (CPU), "triton" (GPU), "torch" (anywhere), "reference", or "auto".
    Returns: LogprobOutput, differentiable in hidden, weight and bias through logprobs and entropy. Each
        gradient has the dtype of its input. The backward pass skips rows whose incoming gradients are 0.
    Raises:
        ValueError: shapes disagree or a value is out of range.   TypeError: any other dtype.
        RuntimeError: the named backend is not usable here.
    Numerics: float32 logits and accumulation. The log-prob of the most likely token is computed as
        -log1p(sum of the others), so that it does not round to 0 before its gradient does.
    Cost: memory for one tile of logits; the backward pass recomputes them. top_k and top_p need whole rows.
        On a GPU a weight that has not hidden's dtype is copied once in each pass.
    """
    head = Head(whole_weight(weight), bias, temperature, logit_scale, softcap, top_k, top_p)
    check_head(OP, hidden, ids, head)
    check_at_least_one(OP, chunk_rows=chunk_rows, max_active_rows=max_active_rows)
    name = _choose(backend, hidden.device, hidden.dtype)
    if name == "reference":
        return linear_logprob_reference(hidden, ids, head)
    out = linear_logprob_op(
        hidden,
        head.weight,
        bias,
        ids,
        head.row_temperature,
        head.scaling.encode(),
        chunk_rows,
        batch_invariant,
        max_active_rows,
        name,
    )
    return LogprobOutput(*out[:4])


@constant
def _choose(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    return pick(OP, backend, IMPLEMENTATIONS, device, dtype).name
