"""Weights on their way into vLLM: few at a time, every name accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fastrl.engine.vllm.weights import WeightLedger

BUCKET_BYTES = 1 << 29
"""Of tensors that are on their way at the same moment: a few of the largest matrices of a 7B model, so that
a reload's fixed cost, a walk over all modules, is paid some dozens of times and not hundreds."""
Bucket = dict[str, Tensor]


def buckets(
    ledger: WeightLedger, tensors: Iterable[tuple[str, Tensor]], partial: bool = False
) -> Iterator[Bucket]:
    """The tensors as they come, in dictionaries that vLLM can be given one after the other, under their
    checkpoint names, tied ones once. Whoever asks for the next has loaded this one, and keeps none.

        bytes held <= BUCKET_BYTES + those of the largest unit

    where tensors come unit by unit, as in a checkpoint. A unit is what vLLM makes anew as a whole: one of its
    modules, so a stack of q, k and v; and all modules that share a tensor.

    partial: some tensors may be missing; what they are stacked with is read back and sent again.

    Raises:
        ValueError: a name is unknown, comes twice or is missing, a shape differs, or two names of one tied
            tensor bring different values.
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
    """It is one of the checkpoint's."""
    target = ledger.parameters.get(name)
    if target is None:
        raise ValueError(f"[load_weights] {name}: expected a parameter of {ledger.kind}, got this name")
    if target.shape != source.shape:
        raise ValueError(
            f"[load_weights] {name}: expected shape {tuple(target.shape)}, got {tuple(source.shape)}"
        )


def take(ledger: WeightLedger, waiting: dict[str, Bucket], partial: bool) -> Bucket:
    """Units that are whole, out of those that wait; with partial all, made whole by what vLLM holds."""
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
