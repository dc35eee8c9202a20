"""Suggests options that reduce the planned memory, each tried separately."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastrl.config import Config, Learns, RlConfig, get_option, with_option
from fastrl.config.engines import engine_table
from fastrl.tools.plan.planner import Planner, longest_sequence

CHECKPOINTING, MICROBATCH = "model.gradient_checkpointing", "train.tokens_per_microbatch"
SHARDING = ("train.shard", "train.shard_gradients", "train.offload")
"""Ordered: each saves more memory, communicates more, and requires the previous one."""


def hint(planner: Planner) -> str:
    """Return a line with every option that reduces the memory, and the memory with it."""
    found = []
    for name, value in smaller(planner):
        needed = planner.needed(with_option(planner.config, name, value))
        if needed < planner.needed():
            fits = ", fits" if needed <= planner.usable else ""
            found.append(f"--{name} {str(value).lower()} ({size(needed)}{fits})")
    if not found:
        return "use a larger device or a smaller model"
    return f"needs less with {', '.join(found)}"


def smaller(planner: Planner) -> Iterator[tuple[str, Any]]:
    """Yield options with values that may reduce memory: switches that are off, half the number of tokens."""
    config = planner.config
    for name in switches(config, planner.ranks, planner.device.kind):
        if not get_option(config, name):
            yield name, True
            if name in SHARDING:
                break  # the next one requires it
    if isinstance(config, Learns) and not config.run.deterministic:  # deterministic: one sequence per pass
        yield MICROBATCH, max(longest_sequence(config), get_option(config, MICROBATCH) // 2)
    for section in dict.fromkeys(entry.section for entry in engine_table(config).values()):
        name = f"{section}.max_batch_tokens"
        yield name, max(longest_request(config), get_option(config, name) // 2)


def switches(config: Config, ranks: int, device: str) -> Iterator[str]:
    """Yield the switches that the configuration may turn on, sharding last."""
    if isinstance(config, RlConfig) and not config.rollout.max_staleness:  # staleness excludes sleep
        entries = engine_table(config).values()
        yield from dict.fromkeys(f"{entry.section}.sleep" for entry in entries if entry.phase != "judge")
    if isinstance(config, Learns):
        yield CHECKPOINTING
        # a sharded policy can't compute these rewards
        scored = isinstance(config, RlConfig) and {"self_certainty", "entropy"} & set(config.reward.functions)
        if ranks > 1 and not scored:
            yield from SHARDING if device == "cuda" else SHARDING[:2]


def longest_request(config: Config) -> int:
    """Return the fewest tokens that an engine must hold: one completion, with what a reward appends."""
    if not isinstance(config, RlConfig):
        return 1024
    slack = config.transfer.slack_tokens if config.uses_transfer else 0
    answer = config.uplift.executor.max_new_tokens if config.uses_uplift else 0
    return config.rollout.max_new_tokens + max(slack, answer)


def size(num_bytes: int | None) -> str:
    """Format a number of bytes; "?" if unknown."""
    if num_bytes is None:
        return "?"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes / 2**10:.2f} KiB"
