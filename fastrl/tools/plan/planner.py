"""Plans a run's memory: what each rank's device holds, and the peak."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fastrl.config import (
    CheckpointConfig,
    Config,
    CptConfig,
    EngineConfig,
    GroupsConfig,
    Learns,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    microbatch_tokens,
    refuse,
)
from fastrl.config.engines import EngineEntry, engine_table
from fastrl.engine.build import choose_device
from fastrl.engine.tree.kv_pool import BLOCK, blocks_of
from fastrl.engine.tree.product import packs
from fastrl.kernels._layout import kept_layout, tiled_layout
from fastrl.policy.model import compute_dtype
from fastrl.tools.plan.footprint import Footprint
from fastrl.tools.plan.sharding import HOST, Item, learnt_items, part
from fastrl.training.update import is_off_policy

USABLE = 0.92
"""Usable fraction of a device's memory; the rest is for runtime, fragmentation and engines' temporaries."""
PHASES = ("rollout", "reward", "update", "sum", "judge")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Device:
    """A device with its memory."""

    kind: str
    """cpu or cuda."""
    name: str
    num_bytes: int

    @classmethod
    def here(cls, config: Config) -> Device:
        """Return the device that the run would use on this machine."""
        device = choose_device(config.run)
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            return cls("cuda", properties.name, properties.total_memory)
        num_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
        return cls("cpu", "RAM", num_bytes if limit == "max" else min(num_bytes, int(limit)))

    @classmethod
    def gpu(cls, gib: float) -> Device:
        """Return a hypothetical GPU with this memory."""
        if not gib > 0:
            refuse("plan", "gpu_gib", "> 0", gib)
        return cls("cuda", "GPU", round(gib * 2**30))


class Planner:
    """Plans one configuration and variants of it; builds each model's footprint once.

    Args:
        ranks: processes that torchrun starts, over all machines; on a CPU they share its memory.
    Raises: ValueError: ranks < 1.
    """

    def __init__(self, config: Config, device: Device, ranks: int = 1) -> None:
        if ranks < 1:
            refuse("plan", "nproc", ">= 1", ranks)
        self.config, self.device, self.ranks = config, device, ranks
        self.usable = int(USABLE * device.num_bytes) // (ranks if device.kind == "cpu" else 1)
        self._footprints: dict[str, Footprint] = {}

    def items(self, config: Config | None = None) -> list[Item]:
        """Return all items that one rank holds: its shard of policy and reference, and whole engines and
        reward models."""
        config = config or self.config
        engines = [
            item
            for entry in engine_table(config).values()
            for item in self._engine(title(config, entry), entry.model, entry.engine, entry.phase)
        ]
        if not isinstance(config, Learns):
            return engines
        items = self._training(config) + engines
        if isinstance(config, RlConfig):
            if config.uses_rubric:
                items.append(self._reward_model(config))
            if config.loss.kl_coef and not config.model.lora.rank:
                items.append(self._reference(config))
        return items

    def needed(self, config: Config | None = None) -> int:
        """Return the peak bytes over all phases of a step."""
        items = self.items(config)
        return max(held(items, phase) for phase in PHASES)

    def _training(self, config: Learns) -> list[Item]:
        tokens = max(microbatch_tokens(config), longest_sequence(config))
        how = f"a forward and backward of {tokens:,} tokens, traced with fake tensors"
        if config.model.gradient_checkpointing:
            how += ", with checkpointing"
        activations = self._activations(config, tokens)
        if activations is None:
            how = "unknown: shapes depend on the data (a mixture of experts); not in the sum"
        policy, itemsize = self._footprint(config.model), self._dtype(config.model).itemsize
        kept = learnt_items(policy, config, self.ranks, itemsize, self.device.kind)
        return [
            *kept,
            Item("activations", activations, how, "update"),
            *([] if isinstance(config, RewardModelConfig) else self._head(config, tokens)),
        ]

    def _head(self, config: RlConfig | SftConfig | CptConfig, tokens: int) -> list[Item]:
        """Return the loss's items: a chunk of logits with gradients, and the head's gradient."""
        policy, device = self._footprint(config.model), torch.device(self.device.kind)
        vocab, itemsize = policy.vocab, self._dtype(config.model).itemsize
        layout = tiled_layout(device, vocab, None)
        if isinstance(config, RlConfig):
            support = config.rollout.top_k > 0 or config.rollout.top_p < 1
            ratio = config.loss.loss_type == "gspo" and is_off_policy(config)
            layout = kept_layout(device, vocab, None, support or ratio or config.loss.corrects_sequences)
        rows = layout.chunk_sizes(tokens)[0]
        columns = vocab if layout.keep else layout.columns
        logits = min(rows, layout.piece) * columns * 4
        gradient_itemsize = 4 if device.type == "cpu" else itemsize
        if gradient_itemsize < 4 or layout.piece < rows:
            logits += rows * columns * gradient_itemsize
        of_head = 0 if config.model.lora.rank else 4 * vocab * policy.width
        others = of_head + 2 * (tokens + 1) * policy.width * itemsize
        if device.type == "cuda" and not (config.train.shard and self.ranks > 1):
            others += vocab * policy.width * (itemsize % 4)  # the head's float32 weight, cast once per call
        return [
            Item(
                "logits",
                logits,
                f"a chunk of {rows:,} rows x {columns:,} columns, and its gradients",
                "update",
            ),
            Item("head", others, "hidden states, their gradient, the head's gradient and cast", "update"),
        ]

    def _engine(self, name: str, model: CheckpointConfig, engine: EngineConfig, phase: str) -> list[Item]:
        footprint, dtype = self._footprint(model), self._dtype(model)
        tokens = engine.max_batch_tokens + (BLOCK if engine.kind == "torch" else 0)
        slots, token_bytes = blocks_of(tokens) * BLOCK, footprint.kv_per_token(dtype)
        cache_when = phase if engine.sleep else "always"
        when = cache_when if self.device.kind == "cuda" else "always"  # sleeping weights move to host memory
        spelled = str(dtype).removeprefix("torch.")
        weights = f"{footprint.num_parameters:,} x {dtype.itemsize}, {spelled}"
        head = footprint.vocab * footprint.width
        packed = engine.kind == "torch" and packs(self.device.kind, dtype, head)
        copy = Item(f"{name} head", head * dtype.itemsize, "a packed copy, for decoding", when)
        return [
            Item(f"{name} weights", footprint.weights(dtype), weights, when),
            *([copy] if packed else []),
            Item(
                f"{name} KV cache",
                slots * token_bytes,
                f"{slots:,} tokens x {token_bytes:,} bytes, {spelled}",
                cache_when,
            ),
        ]

    def _reference(self, config: RlConfig) -> Item:
        policy, how = self._footprint(config.model), "the initial policy, for loss.kl_coef"
        if not config.train.shard or self.ranks == 1:
            return Item("reference weights", policy.weights(torch.float32), how)
        away = config.train.offload and self.device.kind == "cuda"
        size = 4 * part(policy.shapes, self.ranks)
        return Item("reference weights", size, f"{how}, 1 of {self.ranks} parts", HOST if away else "always")

    def _reward_model(self, config: RlConfig) -> Item:
        model, dtype = CheckpointConfig(path=config.uplift.reward_model), self._dtype(config.model)
        size = self._footprint(model).backbone(dtype)
        return Item("reward model weights", size, "its backbone; its activations are not in the sum")

    def _footprint(self, model: CheckpointConfig) -> Footprint:
        if model.path not in self._footprints:
            self._footprints[model.path] = Footprint(section_of(self.config, model), model)
        return self._footprints[model.path]

    def _dtype(self, model: CheckpointConfig) -> torch.dtype:
        return compute_dtype(model, torch.device(self.device.kind))

    def _activations(self, config: Learns, tokens: int) -> int | None:
        model, sharded = config.model, self.ranks > 1 and config.train.shard
        peak: int | None = self._footprint(model).activations(
            tokens, self._dtype(model), model.gradient_checkpointing, sharded
        )
        return peak


def longest_sequence(config: Learns) -> int:
    """Return the fewest tokens that a micro-batch must hold, since no sequence is split."""
    if isinstance(config, RewardModelConfig):
        return config.max_tokens
    return config.rollout.max_new_tokens if isinstance(config, RlConfig) else 1024


def title(config: Config, entry: EngineEntry) -> str:
    """Return the name of an engine in the plan."""
    if entry.name == "policy":
        return "policy engine" if isinstance(config, RlConfig) else "engine"
    return entry.name.replace("_", " ")


def section_of(config: Config, model: CheckpointConfig) -> str:
    """Return the model's section in the configuration."""
    for entry in engine_table(config).values():
        if entry.model.path == model.path:
            return entry.model_section
    own = not isinstance(config, GroupsConfig) and model.path == config.model.path
    return "model" if own else "uplift.reward_model"


def held(items: Sequence[Item], phase: str) -> int:
    """Return the bytes of the items that exist in a phase."""
    return sum(item.num_bytes or 0 for item in items if item.when in ("always", phase))
