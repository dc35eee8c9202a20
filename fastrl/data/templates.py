"""Chat templates: give a tokenizer its own, none, a file's or another model's template, and set variables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fastrl.config.base import CheckpointConfig, DataConfig, PromptedConfig, TemplateOptions, refuse

GIVEN = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now")
)
"""Variables that transformers passes to every template."""
GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags that transformers adds to Jinja; jinja2 itself refuses them."""


def template_options(model: CheckpointConfig, data: DataConfig | None = None) -> TemplateOptions | None:
    """Return the template options of a model: those of the data whose prompts it reads, or its own.

    None: it has neither, and its tokenizer's template stays.
    """
    if data is not None:
        return data
    return model if isinstance(model, PromptedConfig) else None


def use_template(tokenizer: Any, options: TemplateOptions | None, section: str = "data") -> None:
    """Give a tokenizer the chat template that the options name, with their variables as defaults.

    Idempotent, so training can continue from a saved checkpoint.

    Args:
        section: config section of the options, for errors.
    Raises:
        ValueError: there is no such template, it is no Jinja, or it never reads a variable.
    """
    if options is not None:
        choose_template(tokenizer, options, section)
        set_variables(tokenizer, options, section)


def choose_template(tokenizer: Any, options: TemplateOptions, section: str) -> None:
    """Set the tokenizer's chat template: the first half of use_template. Parses it, renders nothing."""
    if options.chat_template != "auto":
        tokenizer.chat_template = named_template(options.chat_template, section)


def set_variables(tokenizer: Any, options: TemplateOptions, section: str) -> None:
    """Set the template's variables: the second half of use_template. jinja2 evaluates constants here."""
    if not options.chat_template_kwargs:
        return
    if tokenizer.chat_template is None:
        refuse(section, "chat_template_kwargs", "none without a chat template", options.chat_template_kwargs)
    template: str = tokenizer.get_chat_template()  # the default one if there are several
    own = variables(template, section) - {*GIVEN, *tokenizer.special_tokens_map}
    for name in options.chat_template_kwargs:
        if name not in own:
            shown = ", ".join(sorted(own)) or "none"
            refuse(section, "chat_template_kwargs", f"variables that the chat template reads ({shown})", name)
    defaults = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {literal(value)} %}}{{% endif %}}"
        for name, value in options.chat_template_kwargs.items()
    )
    if not template.startswith(defaults):
        # transformers' Jinja environment drops a line break after a block
        tokenizer.chat_template = defaults + ("\n" if template.startswith("\n") else "") + template


def named_template(name: str, section: str) -> str | None:
    """Return the template that a chat_template value other than "auto" names; None for "none"."""
    if name == "none":
        return None
    path = Path(name)
    if path.suffix == ".jinja" and path.is_file():
        template = path.read_text(encoding="utf-8")
    elif path.is_dir():
        template = template_of_model(path, section)
    else:
        refuse(section, "chat_template", "auto, none, a .jinja file or a model folder", name)
    parse(template, section)
    return template


def template_of_model(folder: Path, section: str) -> str:
    """Return the template of a folder's tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"[{section}] chat_template: expected a folder with a tokenizer, got {str(folder)!r}: {error}"
        ) from error
    if tokenizer.chat_template is None:
        refuse(section, "chat_template", "a folder whose tokenizer has one", str(folder))
    template: str = tokenizer.get_chat_template()
    return template


def variables(template: str, section: str) -> set[str]:
    """Return the names that a template reads and does not set itself. Raises: ValueError: it is not Jinja."""
    from jinja2 import meta

    return meta.find_undeclared_variables(parse(template, section))


def parse(template: str, section: str) -> Any:
    """Return jinja2's syntax tree of a template. Raises: ValueError: it is not Jinja."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return environment.parse(GENERATION.sub("", template))
    except TemplateSyntaxError as error:
        raise ValueError(
            f"[{section}] chat_template: expected a Jinja template, got {error} in line {error.lineno}"
        ) from error


def literal(value: Any) -> str:
    """Return a JSON value as a Jinja literal."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)
