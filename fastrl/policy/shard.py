"""A model sharded over all ranks (FSDP2): each holds some rows of every weight, of their gradients and of the
optimiser's moments, and a layer is whole only while it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, Shard

from fastrl.config import TrainConfig

BODY = "last_hidden_state"
"""The method that runs a sharded model's decoder; its head is whole from then until the backward is over."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a model is sharded over the ranks."""

    offload: bool = False
    """Rows that are not in use wait in host memory."""
    gradients: bool = False
    """Gradients are summed over the ranks after every micro-batch, and never kept whole."""

    def home(self, device: torch.device) -> torch.device:
        """Return where rows wait that are not in use."""
        return torch.device("cpu") if self.offload else device

    @classmethod
    def of(cls, config: TrainConfig) -> Sharding | None:
        """Return what config asks for; None if it does not, or if there is one rank."""
        if not config.shard or not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        return cls(config.offload, config.shard_gradients)


def shard(
    model: Any, sharding: Sharding, device: torch.device, dtype: torch.dtype, exact: Sequence[nn.Module] = ()
) -> None:
    """Shard a decoder, or an outline of one, in place: each layer, then the rest with its head.

    Weights keep their type, layers compute in `dtype`, gradients are summed in float32: a loss here has one
    denominator for all ranks, so that no mean is taken.

    exact: modules of it that compute in the type of their weights, and are whole only while they do.
    Raises:
        ValueError: the model does not say what its layers are.
    """
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    how: dict[str, Any] = {"mesh": init_device_mesh(device.type, (dist.get_world_size(),))}
    how |= {"offload_policy": offload} if sharding.offload else {}
    for module in exact:
        fully_shard(module, **how)
    if dtype != torch.float32:
        how["mp_policy"] = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(model):
        fully_shard(layer, **how)
    fully_shard(model, reshard_after_forward=False, **how)

    def last_hidden_state(**inputs: Any) -> Tensor:
        hidden: Tensor = model.base_model(**inputs).last_hidden_state
        return hidden

    setattr(model, BODY, last_hidden_state)
    register_fsdp_forward_method(model, BODY)
    for each in sharded_modules(model):
        each.set_gradient_divide_factor(1.0)
        each.set_force_sum_reduction_for_comms(True)  # gloo has no other


def decoder_layers(model: Any) -> list[nn.Module]:
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ValueError(
            f"[train] shard: expected a model that names its layers, got {type(model).__name__} without"
        )
    return layers


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def gather(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the whole of a sharded tensor, on every rank, on `device`; any other tensor as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    here: Any = tensor.to(device)
    whole: Tensor = here.full_tensor()
    return whole


def most_over_ranks(count: int) -> int:
    """Return the largest of all ranks' counts."""
    counts = torch.tensor(count)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)


@dataclass(frozen=True, slots=True)
class Rows:
    """The part of a tensor that this rank has."""

    values: Tensor | None
    """shape[0] rows or fewer; None: another rank has it all."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    dtype: torch.dtype
    first: int = 0
    """The tensor's row that values begin with."""

    @classmethod
    def of(cls, tensor: Tensor, rank: int) -> Rows:
        """Return this rank's rows; what is not sharded is the first rank's."""
        shape, dtype = tuple(tensor.shape), tensor.dtype
        if isinstance(tensor, DTensor):
            # what was computed of sharded tensors may have come out sharded otherwise
            by_rows = tensor.redistribute(placements=[Shard(0)]).to_local()
            return cls(by_rows, shape, dtype, first_row(shape[0], tensor.device_mesh.size(), rank))
        return cls(tensor if rank == 0 else None, shape, dtype)

    def copied(self) -> Rows:
        """Return a copy in host memory of its own."""
        if self.values is None:
            return self
        return Rows(self.values.detach().to("cpu", copy=True), self.shape, self.dtype, self.first)


def rows_of(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Rows]:
    return {name: Rows.of(tensor.detach(), rank) for name, tensor in tensors.items()}


def first_row(num_rows: int, size: int, rank: int) -> int:
    """FSDP2 gives rank r the rows from r * ceil(num_rows / size) on."""
    return min(rank * -(-num_rows // size), num_rows)


def read_like(parameter: Tensor, file: Any, name: str, where: torch.device | None = None) -> Tensor:
    """Read a tensor of an open safetensors file, sharded as its parameter is: only this rank's rows are read.
    A single number is never sharded. where: the device it is put on; None: the parameter's."""
    if not isinstance(parameter, DTensor):
        whole: Tensor = file.get_tensor(name)
        return whole.to(where or parameter.device)
    local, mesh = parameter.to_local(), parameter.device_mesh
    saved = file.get_slice(name)
    if not saved.get_shape():
        number: Tensor = file.get_tensor(name)
        return number.to(where or local.device)
    first = first_row(parameter.shape[0], mesh.size(), mesh.get_local_rank())
    # from_local would move what waits in host memory
    sharded: Tensor = torch.zeros_like(parameter.detach(), device=where)
    if len(local) and isinstance(sharded, DTensor):
        sharded.to_local().copy_(saved[first : first + len(local)])
    return sharded
