"""Run folders of several seeds with known metrics; a reward that is learnt within a few steps."""

from __future__ import annotations

from pathlib import Path

from run_folders import write_stage


def rl_lines(seed, steps=10, **changed):
    """reward = step / 10 + seed / 100; entropy = 1 / step.

    Args:
        changed: metric -> value from step 6 on; None is null.
    """
    lines = [{"step": 0, "eval/avg@4": 0.5 + seed / 100}]
    for step in range(1, steps + 1):
        line = {
            "step": step,
            "reward": step / 10 + seed / 100,
            "entropy": 1 / step,
            "time/update_s": seed + 1.5,
        }
        lines.append(line | (changed if step > 5 else {}))
    return lines


def write_run(folder: Path, seed: int, lines=None, packages=("torch", "2.13.0"), **options) -> Path:
    config = {
        "stage": "rl",
        "run": {"seed": seed, "dir": str(folder)},
        "model": {"path": "world/generator"},
        **options,
    }
    write_stage(folder, config, rl_lines(seed) if lines is None else lines)
    (folder / "environment.json").write_text(f'{{"packages": {{"{packages[0]}": "{packages[1]}"}}}}')
    return folder


def write_seeds(folder: Path, seeds=(0, 1, 2, 3), **options) -> list[Path]:
    return [write_run(folder / f"seed-{seed}", seed, **options) for seed in seeds]


def late_tokens(completion_ids, **kwargs) -> list[float]:
    """Share of ids in the second half of the 260, where no end token is."""
    return [sum(token >= 130 for token in ids) / max(1, len(ids)) for ids in completion_ids]
