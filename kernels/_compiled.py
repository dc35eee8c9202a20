"""What compilers are told of functions, without importing a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant(function: Function) -> Function:
    """torch.compile calls the function once, while it traces, and takes the result for a constant.

    torch.compiler.assume_constant_result does the same, but imports torch._dynamo first: half of the time
    that `import fastrl.ops` took.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
