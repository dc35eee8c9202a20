"""What several ranks add to a plan, and what they take off it: parts of a policy that is spread (FSDP2), its
layers whole while they compute, and sums of gradients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from fastrl.config import CptConfig, RlConfig, SftConfig
from fastrl.footprint import Footprint

Spreads = RlConfig | SftConfig | CptConfig
"""Stages whose policy may be spread."""
HOST = "host"
"""When of what waits in host memory, and not on the device."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that takes memory."""

    name: str
    num_bytes: int | None
    """None: can't be known, and is not in the sum."""
    how: str
    """Where the number comes from."""
    when: str = "always"
    """always, host, or the one of MOMENTS at which it is there."""


def part(shapes: Iterable[tuple[int, ...]], ranks: int) -> int:
    """Values that a rank holds of tensors: sum of ceil(rows / ranks) x row."""
    return sum(-(-shape[0] // ranks) * prod(shape[1:]) for shape in shapes)


def learnt_items(policy: Footprint, config: Spreads, ranks: int, itemsize: int, device: str) -> list[Item]:
    """Of a policy that is trained on several ranks.

    Args:
        itemsize: bytes of a number that layers compute with.
        device: cpu or cuda; with train.offload a GPU has none of what a rank keeps.
    """
    train, lora = config.train, config.model.lora
    trained = policy.trained_shapes(lora)
    shapes = policy.shapes + (trained if lora.rank else [])
    weights, learnt = sum(map(prod, shapes)), sum(map(prod, trained))
    said, when = "", "always"
    if train.shard:
        passing = passing_items(policy, config, ranks, itemsize, learnt)
        weights, learnt = part(shapes, ranks), part(trained, ranks)
        said, when = f", 1 of {ranks} parts", HOST if train.offload and device == "cuda" else "always"
    else:
        passing = [summed_item(learnt)]
    return [
        Item("policy weights", 4 * weights, f"{weights:,} x 4, float32{said}", when),
        Item("gradients", 4 * learnt, f"{learnt:,} x 4, float32{said}", when),
        Item("optimizer states", 8 * learnt + 4 * len(trained), f"{learnt:,} x 8, AdamW's two moments", when),
        *passing,
    ]


def summed_item(learnt: int) -> Item:
    """Of a policy that every rank holds whole."""
    return Item("gradients, summed", 4 * learnt, f"{learnt:,} x 4, all in one buffer", "sum")


def passing_items(policy: Footprint, config: Spreads, ranks: int, itemsize: int, learnt: int) -> list[Item]:
    """What a spread policy has whole for a while.

    The embedding, the head and what else is in no layer are whole from the forward until the backward is
    over; of the layers, one computes, the next is gathered, and what gathers it is as large again. At the
    end of the backward the former's gradients are whole, copied for the sum, and come back as a part.
    """
    rest, layer = policy.outside_layers, max(policy.layers)
    largest = max(map(prod, policy.shapes))
    items = [
        Item("embedding, head, whole", itemsize * rest, f"{rest:,} x {itemsize}, all in no layer", "update"),
        Item("layers, whole", itemsize * 3 * layer, f"3 x {layer:,} x {itemsize}, gathered", "update"),
        Item("sums of gradients", (itemsize + 8) * rest + 4 * rest // ranks, "of what is in no layer", "sum"),
    ]
    if isinstance(config, RlConfig):
        how = f"{largest:,} x 4 twice, gathered for an engine"
        items.append(Item("a weight, whole", 8 * largest, how, "rollout"))
    if not config.train.shard_gradients:
        how = f"{learnt:,} x 4, until the last micro-batch sums them"
        items.append(Item("gradients, whole", 4 * learnt, how, "update"))
    return items
