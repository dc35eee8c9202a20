"""Memory of a trained policy per rank: weights, gradients, moments, and temporaries of FSDP2 sharding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from fastrl.config import Learns, RewardModelConfig, RlConfig
from fastrl.policy.eight_bit import state_bytes
from fastrl.tools.plan.footprint import Footprint

HOST = "host"
"""`Item.when` of items in host memory."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the plan."""

    name: str
    num_bytes: int | None
    """None: unknown, and not in the sum."""
    how: str
    """Explanation of the number."""
    when: str = "always"
    """always, host, or the phase in PHASES in which it exists."""


def part(shapes: Iterable[tuple[int, ...]], ranks: int) -> int:
    """Return the number of values in a rank's shard: sum of ceil(rows / ranks) x row size."""
    return sum(-(-shape[0] // ranks) * prod(shape[1:]) for shape in shapes)


def learnt_items(policy: Footprint, config: Learns, ranks: int, itemsize: int, device: str) -> list[Item]:
    """Return the items of a trained policy.

    Args:
        itemsize: bytes per value of the compute dtype.
        device: cpu or cuda; with train.offload, a rank's shard is in host memory.
    """
    train, bare = config.train, isinstance(config, RewardModelConfig)
    lora = config.lora if isinstance(config, RewardModelConfig) else config.model.lora
    own = policy.backbone_shapes if bare else policy.shapes
    trained = policy.trained_shapes(lora) if lora.rank else own
    shapes = own + (trained if lora.rank else [])
    weights, learnt = sum(map(prod, shapes)), sum(map(prod, trained))
    temporaries, shard_note, when = list[Item](), "", "always"
    if ranks > 1 and train.shard:
        temporaries = temporary_items(own, policy.layers, config, ranks, itemsize, learnt)
        weights, learnt = part(shapes, ranks), part(trained, ranks)
        shard_note, when = f", 1 of {ranks} parts", HOST if train.offload and device == "cuda" else "always"
    elif ranks > 1:
        temporaries = [Item("gradients, summed", 4 * learnt, f"{learnt:,} x 4, all in one buffer", "sum")]
    moments, note = 8 * learnt + 4 * len(trained), f"{learnt:,} x 8, AdamW's two moments"
    if train.optim == "adamw_torch_8bit":
        moments, note = state_bytes(trained), f"{learnt:,} x about 2, AdamW's two moments in 8 bits"
    return [
        Item("policy weights", 4 * weights, f"{weights:,} x 4, float32{shard_note}", when),
        Item("gradients", 4 * learnt, f"{learnt:,} x 4, float32{shard_note}", when),
        Item("optimizer states", moments, note, when),
        *temporaries,
    ]


def temporary_items(
    shapes: Sequence[tuple[int, ...]], layers: Sequence[int], config: Learns, ranks: int, itemsize: int,
    learnt: int,
) -> list[Item]:  # fmt: skip
    """Return the items that a sharded policy holds whole for part of a step.

    Embedding, head and other parameters outside layers stay gathered from the forward pass to the end of the
    backward pass. Of the layers, one computes, the next is gathered, and the gather's buffer is as large
    again. At the end of the backward pass, whole gradients outside layers are copied for the reduce-scatter.

    Args:
        shapes: shapes of all weights.
        layers: number of weights of each layer.
        learnt: number of trained weights.
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
