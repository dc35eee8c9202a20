"""TRL's log-prob functions, loaded from their files: importing the package would require datasets."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bench.competitors.base import Competitor, LogitsCase, Logprobs
from bench.competitors.loading import find_file, folder_module
from fastrl.ops import grpo_loss

PACKAGE = "_trl_alone"


def kernel_module(name: str) -> ModuleType:
    """Import trl/kernels/`name`.py; stubs the context manager that it imports for DeepSpeed."""
    folder = find_file(f"trl/kernels/{name}.py").parent
    folder_module(PACKAGE, folder.parent)
    folder_module(f"{PACKAGE}.kernels", folder)
    folder_module(f"{PACKAGE}.trainer", folder)
    utils = folder_module(f"{PACKAGE}.trainer.utils", folder)
    utils.maybe_gather_lm_head_ctx = lambda *_: nullcontext()  # type: ignore[attr-defined]
    return importlib.import_module(f"{PACKAGE}.kernels.{name}")


def chunked(vocab_chunk: int) -> Logprobs:
    function = kernel_module("chunked_logprob").ChunkedLogProbFunction

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        # as TRL's trainer calls it, with entropy
        found = function.apply(hidden, weight, None, ids, temperature, vocab_chunk, None, 1.0, ("entropy",))
        return found[0], found[1]

    return run


def from_logits() -> Any:
    """Load TRL's Triton kernel on a GPU, elsewhere the trainer's PyTorch function."""
    on_gpu = torch.cuda.is_available()
    module = kernel_module("logprob_entropy") if on_gpu else importlib.import_module("trl.trainer.utils")
    function = module.selective_log_softmax_and_entropy

    def run(case: LogitsCase) -> Tensor:
        logprobs, _ = function(case.logits[:, :-1], case.ids)
        out = grpo_loss(
            logprobs.flatten(),
            **case.batch,
            config=case.config,
            denominator=case.denominator,
            backend="reference",
        )
        return out.loss

    return run


HEAD = (
    Competitor(name="trl chunked 32768", package="trl", load=lambda: chunked(32768), compacts=True),
    Competitor(name="trl chunked 8192", package="trl", load=lambda: chunked(8192), compacts=True),
)
LOGITS = (Competitor(name="trl selective_log_softmax", package="trl", load=from_logits, whole_loss=True),)
