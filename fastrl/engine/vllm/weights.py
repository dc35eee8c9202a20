"""Verification of weights in vLLM's model: they are read back from its kernels and compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_SHARED = "shared"
_IDENTITY_ROWS = 1024
"""Columns of a packed matrix read back at once."""


@dataclass(frozen=True, slots=True)
class WeightLocation:
    """Location of a checkpoint's tensor in vLLM: rows [start, start + length) of a module's parameter."""

    module: str
    parameter: str
    start: int


class WeightLedger:
    """Tensors of a checkpoint by name and shape, with their locations in vLLM's model.

    vLLM stacks matrices (q, k, v), and its CPU build packs them and drops the original. A stacked matrix is
    read back by its rows. A packed one is read back by applying its kernel to the identity,

        y = I W^T,   where every sum has one non-zero term, so that y equals W^T bitwise

    (but for the sign of 0). So any tensor that was lost, swapped, altered or packed wrongly is detected.
    """

    def __init__(self, checkpoint: nn.Module, held: nn.Module, dtype: torch.dtype) -> None:
        """Locate every tensor of the checkpoint.

        Args:
            checkpoint: the Hugging Face model on the meta device.
            held: vLLM's model.
            dtype: vLLM's compute dtype.
        Raises:
            NotImplementedError: a tensor can't be found in vLLM's model.
        """
        self.held, self.dtype = held, dtype
        self.kind = type(checkpoint).__name__
        self.parameters = dict(checkpoint.named_parameters(remove_duplicate=False))
        self.names = [name for name, _ in checkpoint.named_parameters()]
        """Names of all tensors, tied ones once."""
        self.locations = {name: location for name in self.parameters if (location := self._locate(name))}
        located = {id(self.parameters[name]) for name in self.locations}
        for name in self.names:
            if id(self.parameters[name]) not in located:
                raise NotImplementedError(
                    f"[load_weights] {name}: expected a place in vLLM's {type(held).__name__}, found none; "
                    "engine.kind torch trains every model"
                )
        self._own_names = {id(self.parameters[name]): name for name in self.names}
        self.units = self._find_units()
        """Unit of each name in `names`."""

    def own_name(self, name: str) -> str:
        """Return the name in `names` of the same tensor."""
        return self._own_names[id(self.parameters[name])]

    def holds(self, name: str, source: Tensor) -> bool:
        """Return True if vLLM's tensor equals `source`."""
        return not any(self._wrong({name: source}))

    @torch.no_grad()
    def held_now(self, name: str) -> Tensor:
        """Return a copy of vLLM's tensor."""
        parameter = self.parameters[name]
        twins = (twin for twin, other in self.parameters.items() if other is parameter)
        location = next(self.locations[twin] for twin in twins if twin in self.locations)
        whole = next(iter(self._read(location.module, location.parameter, parameter.shape[-1])))
        return whole[location.start : location.start + parameter.shape[0]].clone()

    @torch.no_grad()
    def prove(self, sent: Mapping[str, Tensor]) -> None:
        """Raise RuntimeError unless vLLM's tensors equal all that were sent."""
        for name, wrong in self._wrong(sent):
            raise RuntimeError(
                f"[load_weights] {name}: expected vLLM to hold what was sent, {wrong} of "
                f"{self.parameters[name].numel()} values differ; load all weights again, or restart"
            )

    def _wrong(self, sent: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
        """Yield the tensors that differ in vLLM, with the number of differing values."""
        values = {id(self.parameters[name]): tensor for name, tensor in sent.items()}
        last: tuple[tuple[str, str], list[Tensor]] | None = None
        for name, location in self.locations.items():
            source = values.get(id(self.parameters[name]))
            if source is None:
                continue
            key = (location.module, location.parameter)
            if last is None or last[0] != key:  # q, k and v are read once
                last = (key, list(self._read(*key, source.shape[-1])))
            for whole in last[1]:
                found = whole[location.start : location.start + source.shape[0]]
                if wrong := _differences(found, source, self.dtype):
                    yield name, wrong

    def _find_units(self) -> dict[str, str]:
        """Return the unit of each name: the module, or modules sharing a tensor, that reload together."""
        modules: dict[str, set[str]] = {name: set() for name in self.names}
        for name, location in self.locations.items():
            modules[self._own_names[id(self.parameters[name])]].add(location.module)
        shared = {module for group in modules.values() if len(group) > 1 for module in group}
        return {name: _SHARED if group & shared else min(group) for name, group in modules.items()}

    def _locate(self, name: str) -> WeightLocation | None:
        """Return the tensor's location; None if vLLM has no such module, as for some tied heads."""
        path, _, parameter = name.rpartition(".")
        if self._module(path) is not None:
            return WeightLocation(path, parameter, 0)
        parent, _, leaf = path.rpartition(".")
        stacks: dict[str, list[str]] = getattr(self.held, "packed_modules_mapping", {})
        for stack, parts in stacks.items():
            if leaf in parts and self._module(f"{parent}.{stack}") is not None:
                before = [f"{parent}.{part}.{parameter}" for part in parts[: parts.index(leaf)]]
                return WeightLocation(
                    f"{parent}.{stack}", parameter, sum(len(self.parameters[part]) for part in before)
                )
        return None

    def _module(self, path: str) -> nn.Module | None:
        try:
            return self.held.get_submodule(path)
        except AttributeError:
            return None

    def _read(self, path: str, parameter: str, width: int) -> Iterable[Tensor]:
        """Yield a parameter, and its packed copy if a kernel has one."""
        module: Any = self.held.get_submodule(path)
        plain: Tensor = getattr(module, parameter)
        if plain.numel():
            yield plain
        if parameter == "weight" and hasattr(module, "cpu_linear"):
            identity = torch.eye(width, dtype=self.dtype)
            parts = [
                module.quant_method.apply(module, part) for part in torch.split(identity, _IDENTITY_ROWS)
            ]
            yield torch.cat(parts).T


def _differences(found: Tensor, source: Tensor, dtype: torch.dtype) -> int:
    """Return how many values differ from the source's, rounded to vLLM's dtype."""
    if found.shape != source.shape:
        return source.numel()
    wanted = source.to(found.device).to(dtype).to(found.dtype)
    return 0 if torch.equal(found, wanted) else int((found != wanted).sum())
