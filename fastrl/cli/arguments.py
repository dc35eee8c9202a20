"""Words of a command line that are read before its flags: positionals, and flags of no configuration."""

from __future__ import annotations


def asks_help(arguments: list[str]) -> bool:
    """Return whether -h or --help is among the words."""
    return any(flag in arguments for flag in ("-h", "--help"))


def take_flag(arguments: list[str], flag: str) -> bool:
    """Remove a flag; return whether it was there."""
    found = flag in arguments
    arguments[:] = [argument for argument in arguments if argument != flag]
    return found


def take_number(arguments: list[str], command: str, flag: str) -> float | None:
    """Remove a flag and the number after it; return the number, None if the flag is not there.

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
    """Remove the first word and return it.

    Args:
        name: what the word stands for, as the usage spells it: RECIPE, CHECKPOINT.
    Raises:
        ValueError: there is no word, or the first one is a flag.
    """
    if not arguments or arguments[0].startswith("-"):
        got = f"{arguments[0]!r} in its place" if arguments else "nothing"
        raise ValueError(f"[{command}] {name}: expected it before any flag, got {got}")
    return arguments.pop(0)


def take_positionals(arguments: list[str]) -> list[str]:
    """Remove all words before the first flag and return them."""
    taken: list[str] = []
    while arguments and not arguments[0].startswith("-"):
        taken.append(arguments.pop(0))
    return taken
