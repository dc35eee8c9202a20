"""verl's fused heads, loaded from their files: importing the package would require ray."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch
from torch import Tensor

from bench.competitors.base import Competitor, Logprobs
from bench.competitors.loading import find_file, folder_module, stand_ins

PACKAGE = "_verl_alone"


def fused_linear(rows: int = 512) -> Logprobs:
    """Load FusedLinearForPPO with its PyTorch backend."""
    path = find_file("verl/utils/experimental/torch_functional.py")
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}_torch_functional", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    # the file also tries to import Liger, which fails half-way without Triton
    liger, ops = ModuleType("liger_kernel"), ModuleType("liger_kernel.ops")
    ops.LigerFusedLinearScaledCrossEntropyFunction = None  # type: ignore[attr-defined]
    with stand_ins({"liger_kernel": liger, "liger_kernel.ops": ops}):
        spec.loader.exec_module(module)
    return module.FusedLinearForPPO(chunk_size=rows, impl_backend="torch")  # type: ignore[no-any-return]


def triton_cross_entropy() -> Logprobs:
    folder_module(PACKAGE, find_file("verl/utils/kernel/linear_cross_entropy.py").parent)
    device = ModuleType("verl.utils.device")
    device.__dict__.update(
        get_device_capability=torch.cuda.get_device_capability,
        get_device_name=lambda: "cuda",
        is_cuda_available=torch.cuda.is_available(),
        get_torch_device=lambda: torch.cuda,
    )
    parents = {name: ModuleType(name) for name in ("verl", "verl.utils")}
    with stand_ins(parents | {"verl.utils.device": device}):
        importlib.import_module(f"{PACKAGE}.kernels")
    function = importlib.import_module(f"{PACKAGE}.linear_cross_entropy").linear_cross_entropy

    def run(hidden: Tensor, weight: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logprobs, entropy = function(hidden, weight, ids, temperature)
        return logprobs, entropy

    return run


HEAD = (
    Competitor(name="verl FusedLinearForPPO", package="verl", load=fused_linear),
    Competitor(name="verl Triton", package="verl", load=triton_cross_entropy, needs_cuda=True),
)
