"""Command-line flags for configuration dataclasses; the only file that imports tyro."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from functools import partial
from threading import Lock
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

T = TypeVar("T")
PARSE_LOCK = Lock()
"""Serialises parsing, since tyro keeps its registries in one list for all threads."""


def parse_flags(
    cls: type[T], default: T | None, flags: Sequence[str], *, prog: str, hidden: Collection[str] = (),
    last_line: str = "",
) -> T:  # fmt: skip
    """Return a dataclass with the fields that flags set; other fields keep the default's values.

    Args:
        cls: a (nested) dataclass; `--outer.field_name value` sets a field, with dashes or underscores.
        default: values of fields without a flag. None: the class's own defaults.
        flags: command-line words, without the program's name.
        prog: program name in the help.
        hidden: dotted names of options or sections that have no flag and no help.
        last_line: text printed below the help.
    Raises:
        SystemExit: a flag is wrong (code 2) or --help was given (0); the message has been printed.
    """
    import tyro  # not at the top: programs that embed fastrl never load it

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_constants_as_in_yaml)
    registry.primitive_rule(_mappings_as_json)
    with PARSE_LOCK, registry:
        try:
            parsed = tyro.cli(
                _with_flags(cls, default, set(hidden)),
                prog=prog,
                args=list(flags),
                use_underscores=True,
                config=(tyro.conf.FlagConversionOff,),
            )
        except SystemExit as ended:
            if not ended.code and last_line:
                print(last_line)
            raise
    return _as(cls, parsed)


def is_json_mapping(value: object) -> bool:
    """Return whether a value is a mapping with text for keys that JSON can hold as it is."""
    try:
        return isinstance(value, dict) and bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def typed_flags(flags: Sequence[str]) -> dict[str, list[str]]:
    """Return the words after each flag, by the flag's dotted name; a repeated flag keeps its last words."""
    words: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            words[name] = [value] if equals else []
        elif name:
            words[name].append(word)
    return words


def _with_flags(cls: type[Any], base: Any, hidden: Collection[str], path: str = "") -> type[Any]:
    """Return a subclass of cls whose defaults are base's values and whose hidden fields have no flag.

    Args:
        base: None: the class's own defaults, which may be invalid together until flags set some.
    """
    from tyro.conf import Fixed, Suppress

    own = {field.name: field for field in dataclasses.fields(cls)}
    fields: list[Any] = []
    for name, kind in get_type_hints(cls).items():
        value = _default(own[name]) if base is None else getattr(base, name)
        inside = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        if path + name in hidden:
            kind = Annotated[kind, Fixed, Suppress]
        elif inside and any(option.startswith(f"{path}{name}.") for option in hidden):
            kind = _with_flags(kind, value, hidden, f"{path}{name}.")
            value = kind()
        if isinstance(value, dict):
            fields.append((name, kind, dataclasses.field(default_factory=partial(dict, value))))
        else:
            fields.append((name, kind, dataclasses.field(default=value)))
    made = dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True, kw_only=True)
    made.__doc__ = cls.__doc__
    return made


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _as(cls: type[T], parsed: Any) -> T:
    """Return the same values in an instance of cls itself."""
    values = {}
    for name, kind in get_type_hints(cls).items():
        value = getattr(parsed, name)
        inside = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        values[name] = _as(kind, value) if inside else value
    return cls(**values)


_CONSTANTS: dict[object, dict[str, bool | None]] = {
    bool: {"true": True, "false": False, "True": True, "False": False},
    type(None): {"null": None, "None": None},
}


def _constants_as_in_yaml(info: Any) -> Any:
    """Return a tyro rule that reads true, false and null as YAML does."""
    import tyro

    spelled = _CONSTANTS.get(info.type)
    if spelled is None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(word for word in spelled if word.islower()),
        instance_from_str=lambda words: spelled[words[0]],
        is_instance=lambda value: isinstance(value, info.type),
        str_from_instance=lambda value: ["null" if value is None else str(value).lower()],
        choices=tuple(spelled),
    )


def _mappings_as_json(info: Any) -> Any:
    """A mapping is a JSON text on the command line."""
    import tyro

    if get_origin(info.type) is not dict:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: _json_mapping(words[0]),
        is_instance=is_json_mapping,
        str_from_instance=lambda value: [json.dumps(value)],
    )


def _json_mapping(word: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(word)  # its error is a ValueError, which is shown with the flag
    if not is_json_mapping(value):
        raise ValueError(f"expected a mapping in JSON, got {word!r}")
    return value
