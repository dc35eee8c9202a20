"""Loading of a sharded model without ever holding it whole: it is created on the meta device, and each rank
reads its own rows of every tensor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
)
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from fastrl.config import refuse
from fastrl.policy.shard import first_row, read_like

log = logging.getLogger(__name__)
Read = Callable[[str, Tensor, torch.device], Tensor]
"""(name, tensor to imitate, device) -> the named tensor on that device, with the same shape and sharding."""


def outline(source: str, kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """Return kind.from_pretrained(source, dtype=float32, **options) without its weights.

    Parameters are on the meta device; buffers are computed as usual.

    Args:
        kind: AutoModelForCausalLM or AutoModel.
    Raises: ValueError: the weights are quantised.
    """
    trust = options["trust_remote_code"]
    config: Any = AutoConfig.from_pretrained(source, trust_remote_code=trust)
    if getattr(config, "quantization_config", None):
        refuse("train", "shard", "false for a model whose weights are quantised", True)
    with parameters_on_meta():
        model = kind.from_config(config, dtype=torch.float32, **options)
    model.config.name_or_path = model.name_or_path = source
    if model.can_generate():
        model.generation_config = generation_config(source)
    return model


def generation_config(source: str) -> GenerationConfig:
    """Return the model's generation config, from its own file or else from config.json."""
    own = cached_file(source, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False)
    options: dict[str, Any] = {} if own else {"config_file_name": CONFIG_NAME, "_from_model_config": True}
    return GenerationConfig.from_pretrained(source, **options)


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Put parameters of modules created in the block on the meta device, but not buffers."""
    register = nn.Module.register_parameter
    modules: Any = nn.Module

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if (
            parameter is not None and not parameter.is_meta
        ):  # a tied one is already, and stays the same object
            parameter = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        register(module, name, parameter)

    modules.register_parameter = without_memory
    try:
        yield
    finally:
        modules.register_parameter = register


@contextmanager
def stand_ins(model: nn.Module) -> Iterator[None]:
    """Replace meta parameters by expanded scalars in host memory within the block.

    peft creates adapters on the device of the layer's weight, where they must be initialised.
    """
    replaced = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.is_meta
    ]
    for module, name, parameter in replaced:
        scalar = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
        module.register_parameter(name, nn.Parameter(scalar, parameter.requires_grad))
    try:
        yield
    finally:
        for module, name, parameter in replaced:
            frozen = not module.get_parameter(name).requires_grad
            parameter.requires_grad_(not frozen)
            module.register_parameter(name, parameter)


def fill(
    model: Any, source: str, target: torch.device, device: torch.device, load: Callable[[], Any]
) -> None:
    """Load the weights of a sharded model on the meta device; bitwise what `load` reads.

    If the files name tensors as the model does (or, for a bare decoder, as its causal model does), every rank
    reads only its own rows. Other files (mixtures of experts, files of a bare decoder for a model with a
    head) need a conversion: the first rank loads the whole model and broadcasts one tensor after another.

    Args:
        target: device of the shards.
        device: device for the broadcast.
        load: loads the whole model, on the first rank.
    Raises: ValueError: a tensor in the files has another shape.
    """
    files = weight_files(source)
    waiting = tensors_to_read(model)
    reason = why_converted(model, waiting, files)
    if reason and dist.get_rank() == 0:
        log.warning("%s: %s; the first rank reads it whole, and sends it", source, reason)
    read = sent_by_first(load, device) if reason else from_files(files)
    for names, tensor in waiting:
        saved = saved_names(model, names, bare=bool(reason))
        found = next((name for name in saved if name in files), saved[0])
        if isinstance(tensor, nn.Parameter):
            put(model, names, read(found, tensor, target), tensor.requires_grad)
        else:
            tensor.copy_(read(found, tensor, tensor.device))


def tensors_to_read(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Return meta parameters and persistent buffers, each with all its names."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            found.setdefault(id(parameter), ([], parameter))[0].append(name)
    saved = model.state_dict().keys()
    buffers = [([name], buffer) for name, buffer in model.named_buffers() if name in saved]
    return [*found.values(), *buffers]


def why_converted(model: Any, waiting: list[tuple[list[str], Tensor]], files: dict[str, str]) -> str:
    """Return why the files' tensors need a conversion; "" if they do not."""
    plain = [saved_names(model, names) for names, _ in waiting]
    if absent := [names[0] for names in plain if not set(names) & files.keys()]:
        return f"its files have no {absent[0]}"
    if doubled := [names for names in plain if len(set(names) & files.keys()) > 1]:
        return f"its files have both {' and '.join(doubled[0])}, which are tied"
    if any(isinstance(entry, WeightConverter) for entry in get_model_conversion_mapping(model)):
        return "its tensors are converted"
    return ""


def saved_names(model: Any, names: list[str], bare: bool = False) -> list[str]:
    """Return the names that a tensor may have in a file: without adapters, and with a causal model's prefix.

    Args:
        bare: only the names in the model itself.
    """
    plain = [name.replace(".base_layer.", ".") for name in names]
    return plain if bare else plain + [f"{model.base_model_prefix}.{name}" for name in plain]


def from_files(files: dict[str, str]) -> Read:
    """Return a reader of this rank's rows from safetensors files."""

    def read(name: str, like: Tensor, target: torch.device) -> Tensor:
        # reopened for each tensor, since mapped pages of an open file count as this process's memory
        with safe_open(files[name], framework="pt") as file:
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(like.shape):
                refuse("model", "path", f"{name} of shape {tuple(like.shape)}", shape)
            return read_like(like, file, name, target)

    return read


def sent_by_first(load: Callable[[], Any], device: torch.device) -> Read:
    """Return a reader of tensors that the first rank loads and broadcasts."""
    weights: dict[str, Tensor] = load().state_dict() if dist.get_rank() == 0 else {}

    def read(name: str, like: Tensor, target: torch.device) -> Tensor:
        whole = torch.empty(like.shape, dtype=like.dtype, device=device)
        if weights:
            whole.copy_(weights[name])
        dist.broadcast(whole, 0)
        if not isinstance(like, DTensor):
            return whole.to(target)
        sharded: Any = torch.empty_like(like.detach(), device=target)
        local = sharded.to_local()
        first = first_row(like.shape[0], like.device_mesh.size(), dist.get_rank())
        local.copy_(whole[first : first + len(local)])
        found: Tensor = sharded
        return found

    return read


def put(model: nn.Module, names: list[str], tensor: Tensor, trained: bool) -> None:
    """Register one parameter under all its names."""
    parameter = nn.Parameter(tensor, trained)
    for name in names:
        owner, _, last = name.rpartition(".")
        model.get_submodule(owner).register_parameter(last, parameter)


def weight_files(source: str) -> dict[str, str]:
    """Return {tensor: safetensors file} of a folder or a hub name."""
    shards: Any = get_checkpoint_shard_files
    paths = [cached_file(source, SAFE_WEIGHTS_NAME, _raise_exceptions_for_missing_entries=False)]
    if paths[0] is None:
        paths = shards(source, cached_file(source, SAFE_WEIGHTS_INDEX_NAME))[0]
    found: dict[str, str] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), str(path))
    return found
