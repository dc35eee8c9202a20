"""Custom rewards: functions given by a dotted path."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fastrl.config.rl import BUILT_IN_REWARDS


def imported_reward(path: str) -> Callable[..., Any]:
    """Import a reward with TRL's signature by its dotted path, such as my_package.module.function.

    Raises:
        ValueError: the path has no dot, or the module has no such function.
        ModuleNotFoundError: the module does not exist.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(
            f"[reward] functions: expected {', '.join(BUILT_IN_REWARDS)} or a dotted path such as "
            f"my_rewards.length, got {path!r}"
        )
    function: Callable[..., Any] | None = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ValueError(f"[reward] functions: {module} has no function {name!r}")
    return function
