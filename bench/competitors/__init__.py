"""Other libraries' implementations of the same functions; each is imported only when used."""

from __future__ import annotations

from bench.competitors import dense, liger_kernels, others, trl_kernels, verl_kernels
from bench.competitors.base import Competitor, LogitsCase
from bench.competitors.loading import add_wheels

HEAD: tuple[Competitor, ...] = (
    *dense.HEAD,
    *liger_kernels.HEAD,
    *trl_kernels.HEAD,
    *verl_kernels.HEAD,
    *others.HEAD,
)
"""Functions of hidden states, the head's weight and ids."""
LOGITS: tuple[Competitor, ...] = (*dense.LOGITS, *liger_kernels.LOGITS, *trl_kernels.LOGITS, *others.LOGITS)
"""Functions of logits that are in memory already."""

__all__ = ["HEAD", "LOGITS", "Competitor", "LogitsCase", "add_wheels"]
