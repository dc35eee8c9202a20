"""Runs the stages of a pipeline in order; a stage can refer to results of earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from fastrl.config import Config, PipelineConfig, in_use, references, refuse, resolved, with_option
from fastrl.config.load import read_stored, to_dict, to_yaml
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.errors import Fault
from fastrl.runtime.run import MAY_CHANGE, is_free, read_metrics, write_atomic

T = TypeVar("T")


def run_pipeline(
    config: PipelineConfig, check: Callable[[Config], None], run_stage: Callable[[Config], Path],
    ranks: Ranks,
) -> Path:  # fmt: skip
    """Run every stage in run.dir/NAME, on all ranks; a finished stage is not repeated.

    Args:
        check: raises an error for a stage that can't run; called for all stages before the first one, as far
            as they are known then.
        run_stage: runs a stage and returns its result, a file or folder.
    Returns: the result of the last stage.
    Raises:
        ValueError, FileNotFoundError: a stage can't run, or run.dir holds another pipeline.
    """
    folder = check_pipeline(config, check)
    ranks.wait()  # all ranks check the folder before the first one writes to it
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "pipeline.yaml", to_yaml(config))
    results: dict[str, str] = {}
    for name in config.stages:
        results[name] = str(naming_stage(name, run_stage, resolved(in_folder(config, name), results)))
        if ranks.first:
            print(f"{name}: {results[name]}", flush=True)
            for line in evaluated(folder / name / "metrics.jsonl"):
                print(f"  {line}", flush=True)
    return Path(results[name])


def check_pipeline(config: PipelineConfig, check: Callable[[Config], None]) -> Path:
    """Check all stages before the first one starts; return the pipeline's folder."""
    folder = claim(config)
    stages = {name: in_folder(config, name) for name in config.stages}
    for name, stage in stages.items():
        known = checkable(stage, stages, name, config)
        if known is not None:
            naming_stage(name, check, known)
    return folder


def claim(config: PipelineConfig) -> Path:
    """Return the pipeline's folder; raise ValueError if it holds another pipeline or other files."""
    if not config.run.dir:
        refuse("run", "dir", "a folder for the pipeline (--run.dir runs/NAME)", config.run.dir)
    folder = Path(config.run.dir)
    saved = folder / "pipeline.yaml"
    if saved.exists():
        before, now = flat(to_dict(read_stored(saved))), flat(to_dict(in_use(config)))
        changed = sorted(name for name in before | now if before.get(name) != now.get(name))
        changed = [name for name in changed if name != "run.dir" and not name.endswith(MAY_CHANGE)]
        if changed:
            raise ValueError(
                f"[run] dir: {folder} holds a pipeline whose {', '.join(changed)} differ; choose another "
                "folder, or the same values to resume it"
            )
    elif not is_free(folder, saved.name):
        raise ValueError(f"[run] dir: {folder} is not empty and holds no pipeline; choose another folder")
    return folder


def in_folder(config: PipelineConfig, name: str) -> Any:
    """Return the stage's configuration with its run folder, and the pipeline's seed and device."""
    stage, run = config.stages[name], config.run
    folder = str(Path(run.dir) / name)
    return replace(stage, run=replace(stage.run, dir=folder, seed=run.seed, device=run.device))


def checkable(stage: Any, stages: dict[str, Any], name: str, config: PipelineConfig) -> Config | None:
    """Return the stage with substitutes for results of earlier stages, for checks before they have run.

    A trained model is replaced by its initial model, and the uplift form by `execution` if the reward model
    is not trained yet. None: the stage reads a file that does not exist yet.
    """
    for option, target in references(config):
        place, _, option = option.partition(".")
        if place != name:
            continue
        if option.endswith("model.path") and "/" not in target:
            stage = with_option(stage, option, first_model(stages, target))
        elif option == "uplift.reward_model" and "rubric" not in stage.reward.functions:
            stage = replace(stage, uplift=replace(stage.uplift, reward_model="", form="execution"))
        else:
            return None
    checked: Config = stage
    return checked


def first_model(stages: dict[str, Any], name: str) -> str:
    """Return the path of the first model in the chain of stages that train this one."""
    path: str = stages[name].model.path
    return first_model(stages, path[1:].partition("/")[0]) if path.startswith("@") else path


def naming_stage(name: str, act: Callable[[Any], T], stage: Any) -> T:
    """Return act(stage); put the stage's name into errors of the form `[section] ...`."""
    try:
        return act(stage)
    except (ValueError, FileNotFoundError, FloatingPointError, Fault) as error:
        if not str(error).startswith("["):
            raise
        raise type(error)(f"[{name}.{str(error)[1:]}") from error


def flat(options: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Flatten nested options; names are joined by dots."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        dotted = f"{path}{key}"
        found |= flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return found


def evaluated(metrics: Path) -> list[str]:
    """Return one line per evaluation metric, its first and last value."""
    if not metrics.is_file():
        return []
    lines = [line for line in read_metrics(metrics) if any(key.startswith("eval/") for key in line)]
    if not lines:
        return []
    first, last = lines[0], lines[-1]
    names = [name for name in last if name.startswith("eval/") and not name.endswith(("/low", "/high"))]
    width = max(map(len, names))
    return [
        f"{name:{width}s}  {shown(first, name)} -> {shown(last, name)}" for name in names if name in first
    ]


def shown(line: dict[str, Any], name: str) -> str:
    """Format a metric as 0.63 [0.58, 0.68], without brackets if it has no interval."""
    value = "-" if line[name] is None else f"{line[name]:.4g}"
    low, high = line.get(f"{name}/low"), line.get(f"{name}/high")
    return value if low is None or high is None else f"{value} [{low:.3f}, {high:.3f}]"
