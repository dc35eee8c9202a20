"""Sharding of a model over ranks (FSDP2): each holds some rows of every weight, gradient and moment."""

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
"""The method that runs a sharded model's decoder; its head stays gathered until the backward pass ends."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """Options of sharding over the ranks."""

    offload: bool = False
    """Keep shards in host memory while they are not in use."""
    gradients: bool = False
    """Reduce-scatter gradients after every micro-batch, so that none is kept whole."""

    def home(self, device: torch.device) -> torch.device:
        """Return the device of shards that are not in use."""
        return torch.device("cpu") if self.offload else device

    @classmethod
    def of(cls, config: TrainConfig) -> Sharding | None:
        """Return the options of the train section; None without train.shard or with one rank."""
        if not config.shard or not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        return cls(config.offload, config.shard_gradients)


def shard(
    model: Any, sharding: Sharding, device: torch.device, dtype: torch.dtype, exact: Sequence[nn.Module] = ()
) -> None:
    """Shard a decoder in place, also one on the meta device: each layer, then the rest with the head.

    Weights keep their dtype, layers compute in `dtype`, and gradients are summed in float32. No mean is
    taken, since the loss has one denominator for all ranks.

    Args:
        exact: modules that compute in the dtype of their weights; each is sharded on its own.
    Raises:
        ValueError: the model does not name its layer classes.
    """
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    options: dict[str, Any] = {"mesh": init_device_mesh(device.type, (dist.get_world_size(),))}
    options |= {"offload_policy": offload} if sharding.offload else {}
    for module in exact:
        fully_shard(module, **options)
    if dtype != torch.float32:
        options["mp_policy"] = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for layer in decoder_layers(model):
        fully_shard(layer, **options)
    fully_shard(model, reshard_after_forward=False, **options)

    def last_hidden_state(**inputs: Any) -> Tensor:
        hidden: Tensor = model.base_model(**inputs).last_hidden_state
        return hidden

    setattr(model, BODY, last_hidden_state)
    register_fsdp_forward_method(model, BODY)
    for sharded in sharded_modules(model):
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo supports only sums


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder's layers. Raises ValueError if the model does not name their classes."""
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ValueError(
            f"[train] shard: expected a model that names its layers, got {type(model).__name__} without"
        )
    return layers


def sharded_modules(model: nn.Module) -> list[FSDPModule]:
    """Return the modules that are sharded on their own."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def gather(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a sharded tensor gathered on `device` of every rank; any other tensor as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    here: Any = tensor.to(device)
    whole: Tensor = here.full_tensor()
    return whole


def max_over_ranks(count: int) -> int:
    """Return the maximum of all ranks' counts."""
    counts = torch.tensor(count)
    dist.all_reduce(counts, dist.ReduceOp.MAX)
    return int(counts)


@dataclass(frozen=True, slots=True)
class Rows:
    """This rank's rows of a tensor."""

    values: Tensor | None
    """At most shape[0] rows; None: another rank has the whole tensor."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    dtype: torch.dtype
    first: int = 0
    """Index in the whole tensor of the first row of `values`."""

    @classmethod
    def of(cls, tensor: Tensor, rank: int) -> Rows:
        """Return this rank's rows; a tensor that is not sharded belongs to the first rank."""
        shape, dtype = tuple(tensor.shape), tensor.dtype
        if isinstance(tensor, DTensor):
            # results of operations on sharded tensors may have other placements
            by_rows = tensor.redistribute(placements=[Shard(0)]).to_local()
            return cls(by_rows, shape, dtype, first_row(shape[0], tensor.device_mesh.size(), rank))
        return cls(tensor if rank == 0 else None, shape, dtype)

    def copied(self) -> Rows:
        """Return a copy in host memory."""
        if self.values is None:
            return self
        return Rows(self.values.detach().to("cpu", copy=True), self.shape, self.dtype, self.first)


def rows_of(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Rows]:
    return {name: Rows.of(tensor.detach(), rank) for name, tensor in tensors.items()}


def first_row(num_rows: int, size: int, rank: int) -> int:
    """Return the first row of a rank's shard: FSDP2 gives rank r rows from r * ceil(num_rows / size) on."""
    return min(rank * -(-num_rows // size), num_rows)


def read_like(parameter: Tensor, file: Any, name: str, target: torch.device | None = None) -> Tensor:
    """Read a tensor of an open safetensors file, sharded like its parameter; only this rank's rows are read.

    A scalar is never sharded.

    Args:
        target: device of the result; None: the parameter's.
    """
    if not isinstance(parameter, DTensor):
        whole: Tensor = file.get_tensor(name)
        return whole.to(target or parameter.device)
    local, mesh = parameter.to_local(), parameter.device_mesh
    saved = file.get_slice(name)
    if not saved.get_shape():
        number: Tensor = file.get_tensor(name)
        return number.to(target or local.device)
    first = first_row(parameter.shape[0], mesh.size(), mesh.get_local_rank())
    # from_local would move offloaded shards to the device
    sharded: Tensor = torch.zeros_like(parameter.detach(), device=target)
    if len(local) and isinstance(sharded, DTensor):
        sharded.to_local().copy_(saved[first : first + len(local)])
    return sharded
