"""Command-line flags for configuration dataclasses. The only file that knows tyro."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Sequence
from functools import partial
from threading import Lock
from typing import Annotated, Any, TypeVar, get_origin, get_type_hints

T = TypeVar("T")
ONE_AT_A_TIME = Lock()
"""tyro keeps its registries in one list for all threads."""


def parse_flags(
    cls: type[T], default: T | None, flags: Sequence[str], *, prog: str, hidden: Collection[str] = (),
    last_line: str = "",
) -> T:  # fmt: skip
    """A dataclass whose fields are set by flags; fields not named keep the default's values.

    Args:
        cls: a (nested) dataclass; `--outer.field_name value` sets a field, dashes are as good as underscores.
        default: None: the class's own defaults.
        flags: as typed, without the program's name.
        prog: shown in the help.
        hidden: dotted names of options or sections that no flag sets and no help shows.
        last_line: what stands below the help.
    Raises:
        SystemExit: a flag is wrong (code 2) or --help was asked for (0); the reason has been printed.
    """
    import tyro  # here, so that programs which embed fastrl never load it

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_constants_as_in_yaml)
    registry.primitive_rule(_mappings_as_json)
    with ONE_AT_A_TIME, registry:
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
    """Return the words after each flag by the flag's dotted name; the last of equal flags holds."""
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
    """A subclass of cls with base's values as its defaults, whose hidden fields the parser leaves alone.

    Args:
        base: None: the class's own defaults, which need not be valid together before flags have set some.
    """
    from tyro.conf import Fixed, Suppress

    own = {each.name: each for each in dataclasses.fields(cls)}
    fields = []
    for name, kind in get_type_hints(cls).items():
        value = _default(own[name]) if base is None else getattr(base, name)
        inside = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        if path + name in hidden:
            kind = Annotated[kind, Fixed, Suppress]
        elif inside and any(each.startswith(f"{path}{name}.") for each in hidden):
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
    """The same values in an instance of cls itself."""
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
    """true, false and null mean on the command line what they mean in a recipe."""
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
    value = json.loads(word)  # its error is a ValueError, which is shown with the flag
    if not is_json_mapping(value):
        raise ValueError(f"expected a mapping in JSON, got {word!r}")
    return value
