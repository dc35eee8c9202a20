"""Rewards of your own: a function that a dotted path names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fastrl.config.rl import BUILT_IN_REWARDS


def imported_reward(path: str) -> Callable[..., Any]:
    """Return my_package.module.function, which has TRL's reward signature.

    Raises:
        ValueError: no dotted path, or no such function.   ModuleNotFoundError: no such module.
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
