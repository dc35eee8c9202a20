"""A run as it is compared: stage by stage, what it was asked for and what it logged."""

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

# Beside what a resumed run may change: where a run lies, its seed, and when it is measured.
LEFT_OUT = (
    *MAY_CHANGE, "run.seed", "run.device", "eval.every", "eval.faithfulness.every", "held_out_every",
)  # fmt: skip
STEPS = "train.num_steps"
PATHS = ("path", "reward_model")
"""Ends of the names of options that are files or folders."""
LARGEST = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one stage of a run left behind, as far as it got."""

    lines: list[dict[str, Any]]
    """metrics.jsonl."""
    environment: dict[str, Any]
    """environment.json."""

    @property
    def last(self) -> int:
        """The last step it logged."""
        return int(self.lines[-1]["step"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run folder. A stage that runs alone stands under its kind: rl."""

    name: str
    seed: int
    configs: dict[str, Config]
    """Of all stages, as they were asked for: "@name" still stands for an earlier stage's result."""
    stages: dict[str, Stage]
    """Those that have logged a step."""

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        return {name: options(config) for name, config in self.configs.items()}


def read_record(folder: str | Path) -> Record:
    """What a run folder holds.

    Raises:
        FileNotFoundError: no run lies there, or none of its stages has logged a step.
        ValueError: its configuration can't be read by this version.
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
    """Without lines where it has logged none."""
    metrics, environment = folder / "metrics.jsonl", folder / "environment.json"
    return Stage(
        lines=read_metrics(metrics) if metrics.is_file() else [],
        environment=json.loads(environment.read_text()) if environment.is_file() else {},
    )


def options(config: Config) -> dict[str, Any]:
    """What decides a run's curve beside its seed: the options that are not at their defaults, by dotted name.

    Left out are those of LEFT_OUT; of files and folders the last name alone counts; train.num_steps counts
    where the learning rate follows a cosine of it.
    """
    asked, usual = flat(to_dict(config)), flat(to_dict(from_dict({"stage": config.stage})))
    decides_steps = get_option(config, "schedule") == "cosine"
    return {
        name: last_name(value) if name.endswith(PATHS) else value
        for name, value in asked.items()
        if value != usual[name] and (name not in LEFT_OUT or (name == STEPS and decides_steps))
    }


def last_name(path: Any) -> Any:
    """tiny-world/generator: generator. "@sft/x" is no place but another stage's result."""
    if not isinstance(path, str) or path.startswith("@"):
        return path
    return path.rstrip("/").rpartition("/")[2]


def differing(run: Record, others: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Options of common stages that differ, in words: rl train.learning_rate 0.1, not 0.001.

    Args:
        others: options of each stage; one that is not there is at its default.
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
    """16 hex digits of the options of all stages: the same for runs that differ in seed and folders alone."""
    text = json.dumps(stages, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprints(configs: Iterable[Config]) -> dict[str, str]:
    """{last name of a path option: 16 hex digits} of the weights and files that stages start from, that are
    here, and that have at most LARGEST bytes.

    They tell a world from another, and from the same world made with other arithmetic.
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
