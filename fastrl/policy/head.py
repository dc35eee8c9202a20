"""The LM head of a Hugging Face decoder: weight, bias and logit scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LmHead:
    """The parameters of an LM head.

    z = logit_scale * (hidden weight^T + bias);   logits = softcap * tanh(z / softcap), or z without softcap
    """

    weight: Tensor
    bias: Tensor | None
    logit_scale: float
    softcap: float | None

    def options(self) -> dict[str, Any]:
        """Return all but the weight as keyword arguments of `fastrl.ops.linear_logprob`."""
        return {"bias": self.bias, "logit_scale": self.logit_scale, "softcap": self.softcap}


def lm_head_of(model: Any) -> LmHead:
    """Return the head of a Hugging Face decoder. Raises ValueError if it has none."""
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    if layer is None:
        raise ValueError(
            f"[model] path: expected a causal language model, got {type(model).__name__} without head"
        )
    divided_by = getattr(config, "logits_scaling", None) or 1.0
    return LmHead(
        weight=layer.weight,
        bias=getattr(layer, "bias", None),
        logit_scale=(getattr(config, "logit_scale", None) or 1.0) / divided_by,
        softcap=getattr(config, "final_logit_softcapping", None),
    )
