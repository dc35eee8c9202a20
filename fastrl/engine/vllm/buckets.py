"""Buckets of weights for vLLM's reload, with a check of every name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fastrl.engine.vllm.weights import WeightLedger

BUCKET_BYTES = 1 << 29
"""Bytes per bucket: a few of the largest matrices of a 7B model. Each reload walks over all modules, so
larger buckets mean dozens of walks and not hundreds."""
Bucket = dict[str, Tensor]


def buckets(
    ledger: WeightLedger, tensors: Iterable[tuple[str, Tensor]], partial: bool = False
) -> Iterator[Bucket]:
    """Yield the tensors in dictionaries for vLLM's reload, under their checkpoint names, tied ones once.

        bytes held <= BUCKET_BYTES + bytes of the largest unit

    if tensors come unit by unit, as in a checkpoint. A unit is what vLLM reloads as a whole: a module, such
    as stacked q, k and v, or all modules that share a tensor. The caller loads a bucket before it takes the
    next, and keeps no tensor.

    Args:
        partial: tensors may be missing; those in a unit with given ones are read back and sent again.
    Raises:
        ValueError: a name is unknown, comes twice or is missing, a shape differs, or two names of a tied
            tensor have different values.
    """
    arrived: dict[str, str] = {}
    names: set[str] = set()
    waiting: dict[str, Bucket] = {}
    for name, source in tensors:
        check(ledger, name, source)
        if name in names:
            raise ValueError(f"[load_weights] {name}: expected once, got it twice")
        names.add(name)
        own = ledger.own_name(name)
        unit = ledger.units[own]
        if own in arrived:
            before = waiting.get(unit, {}).get(own)
            if not (ledger.holds(own, source) if before is None else torch.equal(before, source.to(before))):
                raise ValueError(
                    f"[load_weights] {name}: expected the values of {arrived[own]}, which it is tied to, "
                    "got others"
                )
            continue
        arrived[own] = name
        if size_of(waiting) + source.nbytes > BUCKET_BYTES and (bucket := take(ledger, waiting, partial)):
            yield bucket
            bucket.clear()
        waiting.setdefault(unit, {})[own] = source
    for name in ledger.names if not partial else ():
        if name not in arrived:
            raise ValueError(
                f"[load_weights] {name}: expected {len(ledger.names)} parameters, this one is missing"
            )
    if waiting:
        yield take(ledger, waiting, partial)


def check(ledger: WeightLedger, name: str, source: Tensor) -> None:
    """Raise ValueError unless the checkpoint has a tensor of this name and shape."""
    target = ledger.parameters.get(name)
    if target is None:
        raise ValueError(f"[load_weights] {name}: expected a parameter of {ledger.kind}, got this name")
    if target.shape != source.shape:
        raise ValueError(
            f"[load_weights] {name}: expected shape {tuple(target.shape)}, got {tuple(source.shape)}"
        )


def take(ledger: WeightLedger, waiting: dict[str, Bucket], partial: bool) -> Bucket:
    """Remove the complete units from `waiting` and return them; with partial all, completed from vLLM."""
    members: dict[str, list[str]] = {}
    for name, unit in ledger.units.items():
        members.setdefault(unit, []).append(name)
    bucket: Bucket = {}
    for unit in list(waiting):
        missing = [name for name in members[unit] if name not in waiting[unit]]
        if not missing or partial:
            bucket |= waiting.pop(unit)
            bucket |= {name: ledger.held_now(name) for name in missing}
    return bucket


def size_of(waiting: dict[str, Bucket]) -> int:
    return sum(tensor.nbytes for bucket in waiting.values() for tensor in bucket.values())
