"""Pipelines: stages that run in order, where @name in an option is the output of an earlier stage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol

from fastrl.config.base import RunConfig, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRunConfig:
    """Options that hold for all stages."""

    dir: str = ""
    """Folder of the pipeline, with one folder per stage. If it holds the same pipeline, that is resumed."""
    seed: int = 0
    """Seed of every stage."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of every stage; auto: cuda if there is a GPU."""


class Stage(Protocol):
    """A stage's configuration."""

    @property
    def run(self) -> RunConfig: ...


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Stages in the order in which they run. Each recipe has its own subclass, with one field per stage.

    "@name" in an option is the output of the stage `name`: a checkpoint or a folder. "@name/file" is a file
    in that folder.
    """

    stage: Literal["pipeline"] = "pipeline"
    run: PipelineRunConfig = field(default_factory=PipelineRunConfig)

    @property
    def stages(self) -> dict[str, Any]:
        """Configurations by name, in order."""
        own = [field.name for field in dataclasses.fields(self)][2:]
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
    """Return a subclass of PipelineConfig with a field for each (name, configuration class)."""
    fields = [(name, cls, field(default_factory=cls)) for name, cls in stages]
    made = dataclasses.make_dataclass("Pipeline", fields, bases=(PipelineConfig,), frozen=True, kw_only=True)
    made.__doc__ = "Stages that run one after the other."
    return made


def references(pipeline: PipelineConfig) -> list[tuple[str, str]]:
    """Return (dotted option, text after the @) for every option that refers to an earlier stage."""
    found: list[tuple[str, str]] = []

    def collect(value: Any, path: str) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for option in dataclasses.fields(value):
                collect(getattr(value, option.name), f"{path}.{option.name}")
        elif isinstance(value, str) and value.startswith("@"):
            found.append((path, value[1:]))

    for name, config in pipeline.stages.items():
        collect(config, name)
    return found


def resolved(config: Any, results: dict[str, str]) -> Any:
    """Return the configuration with every @name in `results` replaced by the stage's output."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        changed = {
            option.name: resolved(getattr(config, option.name), results)
            for option in dataclasses.fields(config)
        }
        return dataclasses.replace(config, **changed)
    if isinstance(config, str) and config.startswith("@"):
        name, slash, rest = config[1:].partition("/")
        return results[name] + slash + rest if name in results else config
    return config
