"""Reads runs for comparison: options and logged metrics by stage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrl.config import Config, PipelineConfig, get_option
from fastrl.config.load import from_dict, read_stored, to_dict
from fastrl.runtime.run import MAY_CHANGE, read_metrics
from fastrl.stages.pipeline import flat, in_folder

# options that don't affect the curves: those a resumed run may change, folders, seed, evaluation intervals
LEFT_OUT = (
    *MAY_CHANGE, "run.seed", "run.device", "eval.every", "eval.faithfulness.every", "held_out_every",
)  # fmt: skip
STEPS = "train.num_steps"
PATHS = ("path", "reward_model")
"""Suffixes of options that are files or folders."""
LARGEST = 2**28
"""Largest file that is fingerprinted, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The logged data of one stage."""

    lines: list[dict[str, Any]]
    """metrics.jsonl."""
    environment: dict[str, Any]
    """environment.json."""

    @property
    def last(self) -> int:
        """Return the last logged step."""
        return int(self.lines[-1]["step"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run folder. A single stage has its kind as its name, such as rl."""

    name: str
    seed: int
    configs: dict[str, Config]
    """Configurations of all stages, with "@name" references to earlier stages unresolved."""
    stages: dict[str, Stage]
    """Stages that have logged a step."""

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        return {name: options(config) for name, config in self.configs.items()}


def read_record(folder: str | Path) -> Record:
    """Read a run folder.

    Raises:
        FileNotFoundError: the folder holds no run, or no stage has logged a step.
        ValueError: this version can't read the configuration.
    """
    path = Path(folder)
    if (path / "pipeline.yaml").is_file():
        pipeline = read_stored(path / "pipeline.yaml")
        assert isinstance(pipeline, PipelineConfig)
        configs = {name: in_folder(pipeline, name) for name in pipeline.stages}
        folders = {name: path / name for name in configs}
        seed = pipeline.run.seed
    elif (path / "config.yaml").is_file():
        config = read_stored(path / "config.yaml")
        assert not isinstance(config, PipelineConfig)
        configs, folders, seed = {config.stage: config}, {config.stage: path}, config.run.seed
    else:
        raise FileNotFoundError(
            f"[compare] run: expected a run folder with config.yaml or pipeline.yaml, got {str(folder)!r}"
        )
    stages = {name: read_stage(place) for name, place in folders.items()}
    logged = {name: stage for name, stage in stages.items() if stage.lines}
    if not logged:
        raise FileNotFoundError(
            f"[compare] run: expected a run that has logged a step, got none in {str(folder)!r}"
        )
    return Record(name=path.resolve().name, seed=seed, configs=configs, stages=logged)


def read_stage(folder: Path) -> Stage:
    """Read a stage's folder; missing files are empty."""
    metrics, environment = folder / "metrics.jsonl", folder / "environment.json"
    return Stage(
        lines=read_metrics(metrics) if metrics.is_file() else [],
        environment=json.loads(environment.read_text()) if environment.is_file() else {},
    )


def options(config: Config) -> dict[str, Any]:
    """Return the options that determine a run's curves: those not at their defaults, by dotted name.

    Options in LEFT_OUT don't count, except train.num_steps if the learning rate falls until then. Of
    files and folders only the last name counts.
    """
    own, usual = flat(to_dict(config)), flat(to_dict(from_dict({"stage": config.stage})))
    decides_steps = get_option(config, "train.lr_scheduler_type") in ("linear", "cosine")
    return {
        name: last_name(value) if name.endswith(PATHS) else value
        for name, value in own.items()
        if value != usual[name] and (name not in LEFT_OUT or (name == STEPS and decides_steps))
    }


def last_name(path: Any) -> Any:
    """Return the last part of a path, such as generator of tiny-world/generator; "@sft/x" stays."""
    if not isinstance(path, str) or path.startswith("@"):
        return path
    return path.rstrip("/").rpartition("/")[2]


def differing(run: Record, others: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Describe differing options of common stages, such as `rl train.learning_rate 0.1, not 0.001`.

    Args:
        others: options by stage; missing ones are at their defaults.
    """
    found = []
    for stage, ours in run.options.items():
        usual = flat(to_dict(from_dict({"stage": run.configs[stage].stage})))
        theirs = others.get(stage, ours)
        for name in sorted({*ours, *theirs}):
            mine, other = (side[name] if name in side else usual.get(name) for side in (ours, theirs))
            if mine != other:
                found.append(f"{stage} {name} {mine!r}, not {other!r}")
    return found


def digest(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Hash the options of all stages to 16 hex digits; seed and folders don't count."""
    text = json.dumps(stages, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprints(configs: Iterable[Config]) -> dict[str, str]:
    """Hash the initial weights and files of stages: {last part of the path: 16 hex digits}.

    Missing files and files above LARGEST bytes are left out. The hashes distinguish tiny worlds, including
    the same world made on a CPU with other rounding.
    """
    paths = {
        value
        for config in configs
        for name, value in flat(to_dict(config)).items()
        if name.endswith(PATHS) and isinstance(value, str) and value and not value.startswith("@")
    }
    found = {}
    for path in sorted(paths):
        file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
        if file.is_file() and file.stat().st_size <= LARGEST:
            found[last_name(path)] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return found
