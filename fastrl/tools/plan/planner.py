"""A memory plan before a run starts: what a device will hold, whether it fits, and what to change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastrl.config import (
    Config,
    CptConfig,
    EngineConfig,
    GroupsConfig,
    Learns,
    ModelConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    get_option,
    microbatch_tokens,
    refuse,
    with_option,
)
from fastrl.config.engines import engine_table, frozen_engines
from fastrl.engine.build import choose_device
from fastrl.engine.tree.kv_pool import BLOCK, blocks_of
from fastrl.kernels._layout import kept_layout, tiled_layout
from fastrl.policy.model import compute_dtype
from fastrl.tools.plan.footprint import Footprint
from fastrl.tools.plan.sharding import HOST, Item, learnt_items, part
from fastrl.training.update import is_off_policy

T = TypeVar("T")
USABLE = 0.92
"""Of a device's memory; the rest is for its runtime, fragmentation, and an engine's passing needs."""
MOMENTS = ("rollout", "reward", "update", "sum", "judge")
CHECKPOINTING, MICROBATCH = "model.gradient_checkpointing", "train.tokens_per_microbatch"
SLEEP, BATCH_TOKENS = "engine.sleep", "engine.max_batch_tokens"
SPREADING = ("train.shard", "train.shard_gradients", "train.offload")
"""Each takes more off a device, and sends more."""
OF_REWARDS = {"receiver": "transfer.", "executor": "uplift.executor."}
"""Where the options of a reward's engine stand, by its name in the table of engines."""
ASKED = ("writer.", "judge.", "executor.")
"""Where the options of a groups stage's engines stand."""
OPTIONS = (
    SLEEP, *(where + SLEEP for where in OF_REWARDS.values()), *SPREADING, CHECKPOINTING, MICROBATCH,
    BATCH_TOKENS, *(where + BATCH_TOKENS for where in (*OF_REWARDS.values(), *ASKED)),
)  # fmt: skip
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Device:
    """Where a run's tensors lie."""

    kind: str
    """cpu or cuda."""
    name: str
    num_bytes: int

    @classmethod
    def here(cls, config: Config) -> Device:
        """The device that the run would take on this machine."""
        device = choose_device(config.run)
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            return cls("cuda", properties.name, properties.total_memory)
        num_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
        return cls("cpu", "RAM", num_bytes if limit == "max" else min(num_bytes, int(limit)))

    @classmethod
    def gpu(cls, gib: float) -> Device:
        """A GPU that need not be here."""
        if not gib > 0:
            refuse("plan", "gpu_gib", "> 0", gib)
        return cls("cuda", "GPU", round(gib * 2**30))


@dataclass(frozen=True, slots=True)
class Change:
    """Options that would make it fit, by dotted name."""

    options: dict[str, Any]
    num_bytes: int
    """Of the whole plan with them."""


class Planner:
    """Plans of one configuration and its neighbours; models are outlined once."""

    def __init__(self, config: Config, device: Device, ranks: int = 1) -> None:
        """ranks: processes that torchrun starts, over all machines; on a CPU they share its memory.

        Raises: ValueError: there are none.
        """
        if ranks < 1:
            refuse("plan", "nproc", ">= 1", ranks)
        self.config, self.device, self.ranks = config, device, ranks
        self.usable = int(USABLE * device.num_bytes) // (ranks if device.kind == "cpu" else 1)
        self._footprints: dict[str, Footprint] = {}

    def items(self, config: Config | None = None) -> list[Item]:
        """Everything that one rank of the run holds: a part of a policy and of a reference that are spread;
        engines and reward models whole, every rank its own."""
        config = config or self.config
        if not isinstance(config, Learns):
            engines = asked_engines(config).items()
            return [
                item for name, (model, own) in engines for item in self._engine(name, model, own, "rollout")
            ]
        items = self._training(config)
        if isinstance(config, RlConfig):
            items += self._engine("policy engine", config.model, config.engine, "rollout")
            for entry in engine_table(config).values():
                if entry.name != "policy":
                    name = entry.name.replace("_", " ")
                    items += self._engine(name, entry.model, entry.engine, entry.phase)
            if config.uses_rubric:
                items.append(self._reward_model(config))
            if config.loss.kl_coef and not config.model.lora.rank:
                items.append(self._reference(config))
        return items

    def needed(self, config: Config | None = None) -> int:
        """Bytes at the moment that needs most."""
        items = self.items(config)
        return max(held(items, moment) for moment in MOMENTS)

    def changes(self) -> list[Change]:
        """Each that is enough alone; where none is, all together, enough or not. Empty: it fits as it is."""
        if self.needed() <= self.usable:
            return []
        config = self.config
        knobs: list[Callable[[Config], Config]] = []
        if isinstance(config, RlConfig):
            knobs += [] if config.rollout.max_staleness else [self._asleep]  # which refuses sleep
        knobs += [self._spread] if self.ranks > 1 and self._may_spread(config) else []
        if isinstance(config, Learns):
            knobs.append(partial(with_option, name=CHECKPOINTING, value=True))
            # with run.deterministic each sequence goes alone, and there is nothing to lower
            knobs += [] if config.run.deterministic else [partial(self._largest, name=MICROBATCH)]
        knobs += [partial(self._largest, name=name) for name in batch_options(config)]
        alone = [knob(self.config) for knob in knobs]
        enough = [self._change(config) for config in alone if self.needed(config) <= self.usable]
        if enough:
            return enough
        together = self.config
        for knob in knobs:
            together = knob(together)
        return [self._change(together)]

    def least(self, name: str) -> int:
        """The smallest useful value of an option in tokens: one whole completion, as none is split."""
        if isinstance(self.config, RewardModelConfig):
            return self.config.max_tokens
        if not isinstance(self.config, RlConfig):
            return 1024
        config = self.config
        rewards = name != MICROBATCH
        slack = config.transfer.slack_tokens if rewards and config.uses_transfer else 0
        answer = config.uplift.executor.max_new_tokens if rewards and config.uses_uplift else 0
        return config.rollout.max_new_tokens + max(slack, answer)

    def _training(self, config: Learns) -> list[Item]:
        tokens = max(microbatch_tokens(config), self.least(MICROBATCH))
        how = f"a forward and backward of {tokens:,} tokens, walked through without memory"
        if config.model.gradient_checkpointing:
            how += ", with checkpointing"
        activations = self._activations(config, tokens)
        if activations is None:
            how = "not known: shapes inside depend on the data (a mixture of experts); not in the sum"
        policy, itemsize = self._footprint(config.model), self._dtype(config.model).itemsize
        kept = learnt_items(policy, config, self.ranks, itemsize, self.device.kind)
        return [
            *kept,
            Item("activations", activations, how, "update"),
            *([] if isinstance(config, RewardModelConfig) else self._head(config, tokens)),
        ]

    def _head(self, config: RlConfig | SftConfig | CptConfig, tokens: int) -> list[Item]:
        """What the loss needs beside its input: a chunk of logits, their gradients, the weight's gradient."""
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
        beside = of_head + 2 * (tokens + 1) * policy.width * itemsize
        return [
            Item(
                "logits",
                logits,
                f"a chunk of {rows:,} rows x {columns:,} columns, and its gradients",
                "update",
            ),
            Item("head", beside, "hidden states, their gradient, and the head's, float32", "update"),
        ]

    def _engine(self, name: str, model: ModelConfig, engine: EngineConfig, moment: str) -> list[Item]:
        footprint, dtype = self._footprint(model), self._dtype(model)
        tokens = engine.max_batch_tokens + (BLOCK if engine.kind == "torch" else 0)
        slots, each = blocks_of(tokens) * BLOCK, footprint.kv_per_token(dtype)
        cache_when = moment if engine.sleep else "always"
        when = cache_when if self.device.kind == "cuda" else "always"  # weights sleep in the host's memory
        spelled = str(dtype).removeprefix("torch.")
        weights = f"{footprint.num_parameters:,} x {dtype.itemsize}, {spelled}"
        return [
            Item(f"{name} weights", footprint.weights(dtype), weights, when),
            Item(
                f"{name} KV cache", slots * each, f"{slots:,} tokens x {each:,} bytes, {spelled}", cache_when
            ),
        ]

    def _reference(self, config: RlConfig) -> Item:
        policy, how = self._footprint(config.model), "the policy as it was, for loss.kl_coef"
        if not config.train.shard or self.ranks == 1:
            return Item("reference weights", policy.weights(torch.float32), how)
        away = config.train.offload and self.device.kind == "cuda"
        size = 4 * part(policy.shapes, self.ranks)
        return Item("reference weights", size, f"{how}, 1 of {self.ranks} parts", HOST if away else "always")

    def _reward_model(self, config: RlConfig) -> Item:
        model, dtype = ModelConfig(path=config.uplift.reward_model), self._dtype(config.model)
        size = self._footprint(model).backbone(dtype)
        return Item("reward model weights", size, "its backbone; what it computes with is not in the sum")

    def _footprint(self, model: ModelConfig) -> Footprint:
        if model.path not in self._footprints:
            self._footprints[model.path] = Footprint(section_of(self.config, model), model)
        return self._footprints[model.path]

    def _dtype(self, model: ModelConfig) -> torch.dtype:
        return compute_dtype(model, torch.device(self.device.kind))

    def _activations(self, config: Learns, tokens: int) -> int | None:
        """As walked at the configured number of tokens and at the least; between them the chord."""
        least = self.least(MICROBATCH)
        most = max(tokens, least, get_option(self.config, MICROBATCH))
        above = self._walk(config, most)
        if tokens == most or above is None:
            return above
        below = self._walk(config, least)
        assert below is not None
        return int(below + -(-(above - below) * (tokens - least) // (most - least)))

    def _walk(self, config: Learns, tokens: int) -> int | None:
        model, spread = config.model, self.ranks > 1 and config.train.shard
        walked: int | None = self._footprint(model).activations(
            tokens, self._dtype(model), model.gradient_checkpointing, spread
        )
        return walked

    @staticmethod
    def _may_spread(config: Config) -> bool:
        """Scores of the policy itself are not asked of one that is spread."""
        if isinstance(config, RlConfig):
            return not {"self_certainty", "entropy"} & set(config.reward.functions)
        return isinstance(config, Learns)

    def _spread(self, config: Config) -> Config:
        """With the first of SPREADING that are enough; with all where none are."""
        for name in SPREADING[: 3 if self.device.kind == "cuda" else 2]:
            if self.needed(config) <= self.usable:
                break
            config = with_option(config, name, True)
        return config

    def _asleep(self, config: Config) -> Config:
        assert isinstance(config, RlConfig)
        config = with_option(config, SLEEP, True)
        for where in own_engines(config):
            config = with_option(config, where + SLEEP, True)
        return config

    def _largest(self, config: Config, name: str) -> Config:
        """With the largest value below its own that fits, in steps of 64; with the least where none does."""
        if self.needed(config) <= self.usable:
            return config
        now = get_option(config, name)
        low = -(-self.least(name) // 64)
        high = max(low, now // 64)
        while low < high:
            middle = (low + high + 1) // 2
            if self.needed(with_option(config, name, 64 * middle)) <= self.usable:
                low = middle
            else:
                high = middle - 1
        return with_option(config, name, min(now, 64 * low))

    def _change(self, config: Config) -> Change:
        options = {
            name: get_option(config, name)
            for name in OPTIONS
            if get_option(config, name) != get_option(self.config, name)
        }
        return Change(options, self.needed(config))


def asked_engines(config: Config) -> dict[str, tuple[ModelConfig, EngineConfig]]:
    """Of a stage that trains nothing; a groups stage's by where they stand, those that it has."""
    if isinstance(config, GroupsConfig):
        own = {"writer": config.writer, "judge": config.judge}
        found = {name: (each.model, each.engine) for name, each in own.items() if each.model.path}
        executor = config.executor
        if executor.model.path:
            engine = config.writer.engine if executor.engine.kind == "same" else executor.engine
            found["executor"] = (executor.model, engine)
        return found
    assert not isinstance(config, Learns)
    return {"engine": (config.model, config.engine)}


def section_of(config: Config, model: ModelConfig) -> str:
    """Where the configuration has the model."""
    if isinstance(config, GroupsConfig):
        return next(f"{name}.model" for name, (each, _) in asked_engines(config).items() if each == model)
    if model.path == config.model.path or not isinstance(config, RlConfig):
        return "model"
    if config.uses_transfer and model.path == config.transfer.receiver.path:
        return "transfer.receiver"
    for name, judge in config.eval.faithfulness.judges.items():
        if model.path == judge.model.path:
            return f"eval.faithfulness.{name}.model"
    executor = config.uses_uplift and model.path == config.uplift.executor.model.path
    return "uplift.executor.model" if executor else "uplift.reward_model"


def own_engines(config: RlConfig) -> list[str]:
    """Where the options of rewards' engines stand that are not those of the engine section."""
    return [
        where
        for name, where in OF_REWARDS.items()
        if name in frozen_engines(config) and get_option(config, f"{where}engine.kind") != "same"
    ]


def batch_options(config: Config) -> list[str]:
    """Dotted names of what says how many tokens an engine holds."""
    if isinstance(config, GroupsConfig):
        places = [f"{name}." for name in asked_engines(config)]
        return [
            where + BATCH_TOKENS for where in places if get_option(config, f"{where}engine.kind") != "same"
        ]
    if isinstance(config, RlConfig):
        return [BATCH_TOKENS, *(where + BATCH_TOKENS for where in own_engines(config))]
    return [] if isinstance(config, Learns) else [BATCH_TOKENS]


def held(items: Sequence[Item], moment: str) -> int:
    """Bytes of what is there at a moment."""
    return sum(item.num_bytes or 0 for item in items if item.when in ("always", moment))


def report(config: Config, device: Device, ranks: int = 1) -> tuple[bool, str]:
    """Whether the plan of one rank fits its device, and the page that says so."""
    planner = Planner(config, device, ranks)
    items, needed = planner.items(), planner.needed()
    if not items:
        return True, "no model: nothing to plan"
    lines = [f"{item.name:24s}{size(item.num_bytes):>12s}  {item.when:8s}{item.how}" for item in items]
    moment = max(MOMENTS, key=lambda each: held(items, each))
    shared = device.kind == "cpu" and ranks > 1
    of = f"of {size(device.num_bytes)}, {device.name}" + (f" that {ranks} ranks share" if shared else "")
    lines.append(f"{'at once':24s}{size(needed):>12s}  {moment:8s}{of}")
    if waiting := sum(item.num_bytes or 0 for item in items if item.when == HOST):
        lines.append(f"{'in host memory':24s}{size(waiting):>12s}  always  of every rank")
    if ranks > 1:
        lines.append(f"this is one of {ranks} ranks; engines and reward models are whole on each")
    if needed <= planner.usable:
        lines.append(f"fits: {size(planner.usable - needed)} below {USABLE:.0%} of the device")
        return True, "\n".join(lines)
    lines.append(f"does not fit: {size(needed - planner.usable)} above {USABLE:.0%} of the device")
    return False, "\n".join([*lines, *advice(planner.changes(), planner.usable)])


def advice(changes: Sequence[Change], usable: int) -> list[str]:
    if changes[0].num_bytes > usable:
        lines = ["it takes a larger device or a smaller model, and does not fit even with"]
    else:
        lines = ["it fits with any one of" if len(changes) > 1 else "it fits with"]
    for change in changes:
        flags = " ".join(f"--{name} {str(value).lower()}" for name, value in change.options.items())
        lines.append(f"  {flags}  ({size(change.num_bytes)} at once)")
    return lines


def size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "?"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes / 2**10:.2f} KiB"
