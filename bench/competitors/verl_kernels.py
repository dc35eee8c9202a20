"""verl's fused heads, from their files alone: the package imports ray, they do not need it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from bench.competitors.base import Competitor, Logprobs
from bench.competitors.loading import find_file, folder_module, stand_ins

ALONE = "_verl_alone"


def fused_linear(rows: int = 512) -> Logprobs:
    """FusedLinearForPPO in its PyTorch form."""
    path = find_file("verl/utils/experimental/torch_functional.py")
    spec = importlib.util.spec_from_file_location(f"{ALONE}_torch_functional", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    # it looks for Liger to offer a second form, and where Triton is missing that import fails half way
    liger, ops = ModuleType("liger_kernel"), ModuleType("liger_kernel.ops")
    ops.LigerFusedLinearScaledCrossEntropyFunction = None  # type: ignore[attr-defined]
    with stand_ins({"liger_kernel": liger, "liger_kernel.ops": ops}):
        spec.loader.exec_module(module)
    return module.FusedLinearForPPO(chunk_size=rows, impl_backend="torch")  # type: ignore[no-any-return]


def triton_cross_entropy() -> Logprobs:
    folder_module(ALONE, find_file("verl/utils/kernel/linear_cross_entropy.py").parent)
    device = ModuleType("verl.utils.device")
    device.__dict__.update(
        get_device_capability=torch.cuda.get_device_capability,
        get_device_name=lambda: "cuda",
        is_cuda_available=torch.cuda.is_available(),
        get_torch_device=lambda: torch.cuda,
    )
    parents = {name: ModuleType(name) for name in ("verl", "verl.utils")}
    with stand_ins(parents | {"verl.utils.device": device}):
        importlib.import_module(f"{ALONE}.kernels")
    function = importlib.import_module(f"{ALONE}.linear_cross_entropy").linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs, entropy = function(hidden, weight, ids, temperature)
        return logprobs, entropy

    return run


HEAD = (
    Competitor(name="verl FusedLinearForPPO", package="verl", load=fused_linear),
    Competitor(name="verl Triton", package="verl", load=triton_cross_entropy, needs_cuda=True),
)
