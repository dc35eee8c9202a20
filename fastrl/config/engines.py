"""The one table from a stage's engines to their models and options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config import CheckpointConfig, Config, EngineConfig, GroupsConfig, Learns, RlConfig

Phase = Literal["rollout", "reward", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One engine of a stage: what it runs, and where the configuration says so."""

    name: str
    """Under which metrics, plans and errors carry it: policy, receiver, executor, judge, …"""
    phase: Phase
    """When it works."""
    model: CheckpointConfig
    model_section: str
    """The section of the configuration that names the model, such as transfer.receiver."""
    engine: EngineConfig
    """The options that hold for it: its own, or those of another engine that it shares."""
    section: str
    """The section that those options come from, such as transfer.engine."""


def engine_table(config: Config) -> dict[str, EngineEntry]:
    """Every engine that the stage builds, by name; empty where it builds none.

    An engine of kind "same" has the options of the policy's engine; in a groups stage, of the writer's.
    """
    if isinstance(config, RlConfig):
        return _rl_engines(config)
    if isinstance(config, GroupsConfig):
        return _groups_engines(config)
    if isinstance(config, Learns):
        return {}
    return _named(_entry("policy", "rollout", "model", config.model, "engine", config.engine))


def frozen_engines(config: RlConfig) -> dict[str, EngineEntry]:
    """The engines of frozen models that rewards ask."""
    return {name: entry for name, entry in engine_table(config).items() if entry.phase == "reward"}


def _rl_engines(config: RlConfig) -> dict[str, EngineEntry]:
    policy = _entry("policy", "rollout", "model", config.model, "engine", config.engine)
    found = [policy]
    if config.uses_transfer:
        own = config.transfer
        found.append(
            _entry(
                "receiver", "reward", "transfer.receiver", own.receiver, "transfer.engine", own.engine, policy
            )
        )
    if config.uses_uplift:
        place, executor = "uplift.executor", config.uplift.executor
        found.append(
            _entry(
                "executor",
                "reward",
                f"{place}.model",
                executor.model,
                f"{place}.engine",
                executor.engine,
                policy,
            )
        )
    for name, judge in config.eval.faithfulness.judges.items():
        place = f"eval.faithfulness.{name}"
        found.append(_entry(name, "judge", f"{place}.model", judge.model, f"{place}.engine", judge.engine))
    return _named(*found)


def _groups_engines(config: GroupsConfig) -> dict[str, EngineEntry]:
    """Return the engines of the models that are named; an executor of kind "same" has the writer's."""
    writer = _entry(
        "writer", "rollout", "writer.model", config.writer.model, "writer.engine", config.writer.engine
    )
    judge = _entry("judge", "rollout", "judge.model", config.judge.model, "judge.engine", config.judge.engine)
    own = config.executor
    executor = _entry(
        "executor", "rollout", "executor.model", own.model, "executor.engine", own.engine, writer
    )
    return _named(*(entry for entry in (writer, judge, executor) if entry.model.path))


def _entry(
    name: str, phase: Phase, model_section: str, model: CheckpointConfig, section: str, engine: EngineConfig,
    shared: EngineEntry | None = None,
) -> EngineEntry:  # fmt: skip
    if shared is not None and engine.kind == "same":
        section, engine = shared.section, shared.engine
    return EngineEntry(
        name=name, phase=phase, model=model, model_section=model_section, engine=engine, section=section
    )


def _named(*entries: EngineEntry) -> dict[str, EngineEntry]:
    return {entry.name: entry for entry in entries}
