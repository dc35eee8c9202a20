"""Load a configuration from a recipe and flags, and write one as YAML; flags override the recipe."""

from __future__ import annotations

import dataclasses
import difflib
import keyword
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from fastrl.config import STAGES, PipelineConfig, Recipe, field_names, in_use, pipeline_class
from fastrl.config.flags import is_json_mapping, parse_flags, typed_flags
from fastrl.config.help import show_help, split_help
from fastrl.config.renamed import refuse_old_flags, today
from fastrl.config.sections import never_used, refuse_unused, without_unused

RECIPES = Path(__file__).parents[1] / "recipes"
RESERVED = ("stages", *keyword.kwlist)
"""Names that a pipeline's stage can't have, since each stage is an attribute of the pipeline's class."""
T = TypeVar("T")


def load_config(recipe: str | None, overrides: Sequence[str] = (), usage: str | None = None) -> Recipe:
    """Return the configuration of a recipe with command-line flags.

        config = flags over recipe over defaults

    Args:
        recipe: name of a packaged recipe, or path of a .yaml file; its `stage` picks the configuration class.
            None: the defaults of an RL stage.
        overrides: command-line words, `["--train.num_steps", "5"]`.
        usage: command that --help and errors of flags name. None: fastrl train RECIPE.
    Raises:
        FileNotFoundError: the recipe does not exist.
        ValueError: unknown key, wrong type, or value out of range.
        SystemExit: a flag is wrong, or --help was given; the message has been printed.
    """
    data = {"stage": "rl"} if recipe is None else read_yaml(find_recipe(recipe))
    base = from_dict(today(data, stored=False))
    words, topic = split_help(overrides)
    flags = typed_flags(words)
    refuse_old_flags(base, flags)
    refuse_unused(base, flags)
    unused = never_used(base, flags)
    prog = usage or f"fastrl train {recipe or 'RECIPE'}"
    if topic is not None:
        show_help(base, words, topic, unused, prog)
    if words:
        stages = [name for name in field_names(type(base)) if name.rsplit(".", 1)[-1] == "stage"]
        base = parse_flags(type(base), base, words, prog=prog, hidden=[*stages, *unused])
    return in_use(base)


def read_stored(path: Path) -> Recipe:
    """Return the configuration in a run folder's config.yaml or pipeline.yaml, of this or an earlier version.

    Raises: ValueError: a removed option is not at its default.
    """
    return as_stored(read_yaml(path))


def as_stored(data: Mapping[str, Any]) -> Recipe:
    """Return the configuration in nested mappings that this or an earlier version wrote."""
    return in_use(from_dict(today(data, stored=True)))


def find_recipe(recipe: str) -> Path:
    """Return the path of a packaged recipe; a name with a slash or .yaml/.yml is a path already."""
    if recipe.endswith((".yaml", ".yml")) or "/" in recipe:
        if not Path(recipe).is_file():
            raise FileNotFoundError(f"[recipe] path: expected an existing file, got {recipe!r}")
        return Path(recipe)
    if recipe not in recipe_names():
        raise FileNotFoundError(
            f"[recipe] name: expected a .yaml file or one of {', '.join(recipe_names())}, got {recipe!r}"
        )
    return RECIPES / f"{recipe}.yaml"


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. 1e-6 is a number, and a repeated key is an error."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"[recipe] {path}: expected YAML, got {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"[recipe] {path}: expected a mapping of options, got {data!r}")
    return data


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """Return the configuration in nested mappings, the inverse of to_dict.

    Raises: ValueError: unknown key, wrong type, or value out of range.
    """
    cls: type[Any] = _class_of(data)
    config: Recipe = _build(cls, data, "", field_names(cls))
    return config


def _class_of(data: Mapping[str, Any]) -> type[Any]:
    stage = data.get("stage")
    if stage == "pipeline":
        return _pipeline_of(data)
    return _stage_class("stage", stage, [*STAGES, "pipeline"])


def _pipeline_of(data: Mapping[str, Any]) -> type[PipelineConfig]:
    """Return the class of a pipeline, with a field for every mapping except `run`."""
    stages = {name: section for name, section in data.items() if name not in ("stage", "run")}
    for name, section in stages.items():
        # the name is also a folder of the run and the prefix of the stage's options
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name) or name in RESERVED:
            raise ValueError(
                f"[recipe] stage: expected names of letters, digits and _ for stages, no Python keyword "
                f"and not {RESERVED[0]}, got {name!r}"
            )
        if not isinstance(section, Mapping):
            raise ValueError(f"[recipe] {name}: expected a stage, a mapping of options, got {section!r}")
    if not stages:
        raise ValueError("[recipe] stage: expected a pipeline with at least one stage, got none")
    kinds = {
        name: _stage_class(f"{name}.stage", section.get("stage"), list(STAGES))
        for name, section in stages.items()
    }
    return pipeline_class(tuple(kinds.items()))


def _stage_class(path: str, stage: object, known: Sequence[str]) -> type[Any]:
    if not isinstance(stage, str) or stage not in STAGES:
        raise ValueError(f"[recipe] {path}: expected one of {', '.join(known)}, got {stage!r}")
    return STAGES[stage]


def to_dict(config: Recipe) -> dict[str, Any]:
    """Return the configuration as nested plain values, tuples as lists; the inverse of from_dict."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def to_yaml(config: Recipe) -> str:
    """Return the configuration as a recipe, without unused sections that are at their defaults."""
    return yaml.safe_dump(without_unused(to_dict(config), config), sort_keys=False, allow_unicode=True)


def _build(cls: type[T], data: object, path: str, known: Sequence[str]) -> T:
    if not isinstance(data, Mapping):
        raise ValueError(f"[recipe] {path}: expected a mapping of options, got {data!r}")
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        dotted = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise ValueError(f"[recipe] {dotted}: expected a known option, {_nearest(dotted, known)}")
        kind = hints[key]
        nested = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        values[key] = _build(kind, value, dotted, known) if nested else _value(kind, value, dotted)
    return cls(**values)


def _nearest(dotted: str, known: Sequence[str]) -> str:
    sections = sorted({name.rsplit(".", 1)[0] for name in known if "." in name})
    near = difflib.get_close_matches(dotted, [*known, *sections], n=3, cutoff=0.5)
    last = dotted.rsplit(".", 1)[-1]
    near += [name for name in known if name.rsplit(".", 1)[-1] == last and name not in near]
    return f"nearest are {', '.join(near)}" if near else f"sections are {', '.join(sections)}"


def _value(kind: Any, value: object, path: str) -> Any:
    """Return the value in the field's type: a list becomes a tuple, and an int a float if the field is one.

    Raises: ValueError: the value has another type.
    """
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_value(get_args(option)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
        if _fits(option, value):
            return float(value) if option is float else value  # type: ignore[arg-type]
    raise ValueError(f"[recipe] {path}: expected {' or '.join(map(_describe, options))}, got {value!r}")


def _fits(option: Any, value: object) -> bool:
    if get_origin(option) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(option))
    if option is float:
        return type(value) in (int, float)
    if get_origin(option) is dict:
        return is_json_mapping(value)
    return type(value) is option  # not isinstance, since bool is a subclass of int


def _describe(option: Any) -> str:
    if get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, get_args(option)))
    if get_origin(option) is tuple:
        return f"a list, each {_describe(get_args(option)[0])}"
    if get_origin(option) is dict:
        return "a mapping from names to values of JSON"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(option, str(option))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-6 is a number and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"[recipe] {key}: expected once in its section, got {keys.count(key)} times")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
