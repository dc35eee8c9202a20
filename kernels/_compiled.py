"""Marks for torch.compile that do not import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant(function: Function) -> Function:
    """Mark a function whose result torch.compile takes as a constant while it traces.

    torch.compiler.assume_constant_result does the same, but imports torch._dynamo, which would take half of
    the time of `import fastrl.ops`.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
