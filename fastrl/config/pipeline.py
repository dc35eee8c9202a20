"""Several stages, one after the other: what a stage needs of an earlier one is named with an @."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol

from fastrl.config.base import RunConfig, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRunConfig:
    """Where all stages write, each in a folder of its own name; what they have in common."""

    dir: str = ""
    """A folder with the same pipeline goes on."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Stage(Protocol):
    """A stage's configuration."""

    @property
    def run(self) -> RunConfig: ...


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Stages in the order in which they run. Each recipe has a class of its own, with a field a stage.

    "@name" stands for what the stage `name` leaves behind (a checkpoint or a folder), "@name/file" for a file
    in it.
    """

    stage: Literal["pipeline"] = "pipeline"
    run: PipelineRunConfig = field(default_factory=PipelineRunConfig)

    @property
    def stages(self) -> dict[str, Any]:
        """Configurations by name, in order."""
        own = [each.name for each in dataclasses.fields(self)][2:]
        return {name: getattr(self, name) for name in own}

    def __post_init__(self) -> None:
        default = RunConfig()
        for name, config in self.stages.items():
            for option in ("dir", "seed", "device"):
                if getattr(config.run, option) != getattr(default, option):
                    got = getattr(config.run, option)
                    refuse(f"{name}.run", option, f"nothing, since run.{option} is for all stages", got)
        for option, target in references(self):
            names = list(self.stages)
            earlier = names[: names.index(option.partition(".")[0])]
            if target.partition("/")[0] not in earlier:
                section, _, last = option.rpartition(".")
                known = (
                    f"one of @{', @'.join(earlier)}" if earlier else "a path, since no stage comes earlier"
                )
                refuse(section, last, known, "@" + target)


@cache
def pipeline_class(stages: tuple[tuple[str, type[Any]], ...]) -> type[PipelineConfig]:
    """PipelineConfig with a field for each (name, configuration class)."""
    fields = [(name, cls, field(default_factory=cls)) for name, cls in stages]
    made = dataclasses.make_dataclass("Pipeline", fields, bases=(PipelineConfig,), frozen=True, kw_only=True)
    made.__doc__ = "Stages that run one after the other."
    return made


def references(pipeline: PipelineConfig) -> list[tuple[str, str]]:
    """(dotted option, what follows its @) wherever a stage names an earlier one."""
    found: list[tuple[str, str]] = []

    def look(value: Any, path: str) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for each in dataclasses.fields(value):
                look(getattr(value, each.name), f"{path}.{each.name}")
        elif isinstance(value, str) and value.startswith("@"):
            found.append((path, value[1:]))

    for name, config in pipeline.stages.items():
        look(config, name)
    return found


def resolved(config: Any, results: dict[str, str]) -> Any:
    """The configuration with every @name that `results` knows replaced."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        changed = {
            each.name: resolved(getattr(config, each.name), results) for each in dataclasses.fields(config)
        }
        return dataclasses.replace(config, **changed)
    if isinstance(config, str) and config.startswith("@"):
        name, slash, rest = config[1:].partition("/")
        return results[name] + slash + rest if name in results else config
    return config
