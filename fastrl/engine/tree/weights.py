"""Copying of weights into a model, with a check of every name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


@torch.no_grad()
def copy_weights(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], partial: bool = False) -> None:
    """Copy named tensors into a model in place, cast to its dtypes.

    All parameters are required unless `partial`; one name of a tied parameter is enough. Persistent buffers
    are optional.

    Raises:
        ValueError: a name is unknown, comes twice or is missing, a shape differs, or two names of a tied
            parameter have different values.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    saved = model.state_dict(keep_vars=True).keys()
    buffers = {name: value for name, value in model.named_buffers() if name in saved}
    arrived: dict[int, str] = {}
    names: set[str] = set()
    for name, source in tensors:
        target = parameters.get(name, buffers.get(name))
        if target is None:
            raise ValueError(
                f"[load_weights] {name}: expected a parameter of {type(model).__name__}, got this name"
            )
        if target.shape != source.shape:
            raise ValueError(
                f"[load_weights] {name}: expected shape {tuple(target.shape)}, got {tuple(source.shape)}"
            )
        if name in names:
            raise ValueError(f"[load_weights] {name}: expected once, got it twice")
        names.add(name)
        twin = arrived.setdefault(id(target), name)
        if twin == name:
            target.copy_(source)
        elif not torch.equal(target, source.to(target)):
            raise ValueError(
                f"[load_weights] {name}: expected the values of {twin}, which it is tied to, got others"
            )
    missing = [name for name, parameter in parameters.items() if id(parameter) not in arrived]
    if missing and not partial:
        raise ValueError(
            f"[load_weights] {missing[0]}: expected {len(parameters)} parameters, this one is missing"
        )


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return every parameter with its name, tied ones once."""
    return ((name, parameter.detach()) for name, parameter in model.named_parameters())
