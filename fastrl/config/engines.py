"""The table of a stage's engines: name, model, phase and options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastrl.config import CheckpointConfig, Config, EngineConfig, GroupsConfig, Learns, RlConfig

Phase = Literal["rollout", "reward", "judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One engine of a stage: its model, its options and their sections in the configuration."""

    name: str
    """Name in metrics, plans and errors: policy, receiver, executor, judge, …"""
    phase: Phase
    """Phase of a step in which it generates."""
    model: CheckpointConfig
    model_section: str
    """Section that names the model, such as transfer.receiver."""
    engine: EngineConfig
    """Options in force: its own, or with kind "same" those of the engine that it copies."""
    section: str
    """Section that `engine` comes from, such as transfer.engine."""


def engine_table(config: Config) -> dict[str, EngineEntry]:
    """Return every engine that the stage builds, by name; empty if it builds none.

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
    """Return the engines of the rewards' frozen models, by name."""
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
        section, executor = "uplift.executor", config.uplift.executor
        found.append(
            _entry(
                "executor",
                "reward",
                f"{section}.model",
                executor.model,
                f"{section}.engine",
                executor.engine,
                policy,
            )
        )
    for name, judge in config.eval.faithfulness.judges.items():
        section = f"eval.faithfulness.{name}"
        found.append(
            _entry(name, "judge", f"{section}.model", judge.model, f"{section}.engine", judge.engine)
        )
    return _named(*found)


def _groups_engines(config: GroupsConfig) -> dict[str, EngineEntry]:
    """Return the engines of the models that have a path; an executor of kind "same" copies the writer's."""
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
