"""Parses positionals, and flags that are not configuration fields, before the other flags."""

from __future__ import annotations


def asks_help(arguments: list[str]) -> bool:
    """Return True if -h or --help is among the arguments."""
    return any(flag in arguments for flag in ("-h", "--help"))


def take_flag(arguments: list[str], flag: str) -> bool:
    """Remove a flag; return True if it was present."""
    found = flag in arguments
    arguments[:] = [argument for argument in arguments if argument != flag]
    return found


def take_number(arguments: list[str], command: str, flag: str) -> float | None:
    """Remove a flag and the number after it; return the number, or None without the flag.

    Raises:
        ValueError: no number follows the flag.
    """
    if flag not in arguments:
        return None
    place = arguments.index(flag)
    _, *values = arguments[place : place + 2]
    del arguments[place : place + 2]
    try:
        return float(values[0])
    except (IndexError, ValueError) as error:
        got = repr(values[0]) if values else "nothing"
        raise ValueError(f"[{command}] {flag[2:]}: expected a number, got {got}") from error


def take_positional(arguments: list[str], command: str, name: str) -> str:
    """Remove the first argument and return it.

    Args:
        name: the argument's name in the usage, such as RECIPE or CHECKPOINT.
    Raises:
        ValueError: there is no argument, or the first one is a flag.
    """
    if not arguments or arguments[0].startswith("-"):
        got = f"{arguments[0]!r} in its place" if arguments else "nothing"
        raise ValueError(f"[{command}] {name}: expected it before any flag, got {got}")
    return arguments.pop(0)


def take_positionals(arguments: list[str]) -> list[str]:
    """Remove all arguments before the first flag and return them."""
    taken: list[str] = []
    while arguments and not arguments[0].startswith("-"):
        taken.append(arguments.pop(0))
    return taken
