"""What training keeps of a policy, on one rank or many: weights, gradients and moments, or a part of them
where it is sharded (FSDP2); its layers whole while they compute, and sums of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from fastrl.config import Learns, RewardModelConfig, RlConfig
from fastrl.tools.plan.footprint import Footprint

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


def learnt_items(policy: Footprint, config: Learns, ranks: int, itemsize: int, device: str) -> list[Item]:
    """Of a policy that is trained.

    Args:
        itemsize: bytes of a number that layers compute with.
        device: cpu or cuda; with train.offload a GPU has none of what a rank keeps.
    """
    train, bare = config.train, isinstance(config, RewardModelConfig)
    lora = config.lora if isinstance(config, RewardModelConfig) else config.model.lora
    own = policy.backbone_shapes if bare else policy.shapes
    trained = policy.trained_shapes(lora) if lora.rank else own
    shapes = own + (trained if lora.rank else [])
    weights, learnt = sum(map(prod, shapes)), sum(map(prod, trained))
    passing, said, when = list[Item](), "", "always"
    if ranks > 1 and train.shard:
        passing = passing_items(own, policy.layers, config, ranks, itemsize, learnt)
        weights, learnt = part(shapes, ranks), part(trained, ranks)
        said, when = f", 1 of {ranks} parts", HOST if train.offload and device == "cuda" else "always"
    elif ranks > 1:
        passing = [Item("gradients, summed", 4 * learnt, f"{learnt:,} x 4, all in one buffer", "sum")]
    return [
        Item("policy weights", 4 * weights, f"{weights:,} x 4, float32{said}", when),
        Item("gradients", 4 * learnt, f"{learnt:,} x 4, float32{said}", when),
        Item("optimizer states", 8 * learnt + 4 * len(trained), f"{learnt:,} x 8, AdamW's two moments", when),
        *passing,
    ]


def passing_items(
    shapes: Sequence[tuple[int, ...]], layers: Sequence[int], config: Learns, ranks: int, itemsize: int,
    learnt: int,
) -> list[Item]:  # fmt: skip
    """What a sharded policy has whole for a while.

    The embedding, the head and what else is in no layer are whole from the forward until the backward is
    over; of the layers, one computes, the next is gathered, and what gathers it is as large again. At the
    end of the backward the former's gradients are whole, copied for the sum, and come back as a part.

    Args:
        shapes: of all its weights.   layers: their numbers in each layer.   learnt: how many are trained.
    """
    rest, layer = sum(map(prod, shapes)) - sum(layers), max(layers)
    largest = max(map(prod, shapes))
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
