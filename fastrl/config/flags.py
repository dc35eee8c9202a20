"""Command-line flags for configuration dataclasses. The only file that knows tyro."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")
ONE_AT_A_TIME = Lock()
"""tyro keeps its registries in one list for all threads."""


def parse_flags(cls: type[T], default: T | None, flags: Sequence[str], *, prog: str) -> T:
    """A dataclass whose fields are set by flags; fields not named keep the default's values.

    Args:
        cls: a (nested) dataclass; `--outer.field_name value` sets a field, dashes are as good as underscores.
        default: None: the class's own defaults.
        flags: as typed, without the program's name.
        prog: shown in the help.
    Raises:
        SystemExit: a flag is wrong (code 2) or --help was asked for (0); the reason has been printed.
    """
    import tyro  # here, so that programs which embed fastrl never load it

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_constants_as_in_yaml)
    options: dict[str, Any] = {} if default is None else {"default": default}
    with ONE_AT_A_TIME, registry:
        parsed: T = tyro.cli(
            cls,
            prog=prog,
            args=list(flags),
            use_underscores=True,
            config=(tyro.conf.FlagConversionOff,),
            **options,
        )
    return parsed


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
