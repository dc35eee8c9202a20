"""Read, replace and compare options of a configuration by their dotted names."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def differences(a: object, b: object, path: str = "") -> list[str]:
    """Return the dotted names of the fields whose values differ between two configurations."""
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b) and type(a) is type(b):
        found: list[str] = []
        for item in dataclasses.fields(a):
            found += differences(
                getattr(a, item.name), getattr(b, item.name), f"{path}.{item.name}".lstrip(".")
            )
        return found
    return [] if a == b else [path]


def get_option(config: Any, name: str) -> Any:
    """Return an option's value by its dotted name; None if the configuration has no such option."""
    first, _, rest = name.partition(".")
    value = getattr(config, first, None)
    return get_option(value, rest) if rest else value


def with_option(config: T, name: str, value: Any) -> T:
    """Return the configuration with one option changed, by its dotted name."""
    first, _, rest = name.partition(".")
    changed = with_option(getattr(config, first), rest, value) if rest else value
    return replace(config, **{first: changed})  # type: ignore[type-var]


def field_names(cls: type[Any], prefix: str = "") -> list[str]:
    """Return the dotted names of all options of a configuration class, in order."""
    names: list[str] = []
    for name, kind in get_type_hints(cls).items():
        nested = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        names += field_names(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return names
