"""Help in tiers: the options that people turn, those of one section, or all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from fastrl.config.base import refuse
from fastrl.config.flags import parse_flags
from fastrl.config.options import field_names
from fastrl.config.sections import is_in
from fastrl.config.usual import usual_options

ALL = "all"


def split_help(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """Return the flags without --help, and the section after it: "" where none is named, None without it."""
    words = list(overrides)
    place = next((i for i, word in enumerate(words) if word in ("-h", "--help")), None)
    if place is None:
        return words, None
    named = words[place + 1 : place + 2]
    topic = named[0] if named and not named[0].startswith("-") else ""
    del words[place : place + 1 + bool(topic)]
    return words, topic


def show_help(base: Any, words: Sequence[str], topic: str, unused: Mapping[str, str], prog: str) -> NoReturn:
    """Print the options that people turn, or those of a section, or all, and end with code 0.

    Args:
        unused: sections that nothing uses, and what would.
    Raises: ValueError: there is no such section, or nothing uses it.
    """
    names = field_names(type(base))
    known = [name for name in names if name.rsplit(".", 1)[-1] != "stage" and is_in(name, unused) is None]
    sections = sorted({name[: dot.start()] for name in known for dot in re.finditer(r"\.", name)})
    if topic in unused:
        refuse("help", "SECTION", f"{topic} with {unused[topic]}, which alone uses it", topic)
    if topic and topic not in (*sections, ALL):
        refuse("help", "SECTION", f"one of {', '.join(sections)} or {ALL}", topic)
    if topic:
        shown = [name for name in known if topic == ALL or name.startswith(f"{topic}.")]
    else:
        shown = usual_options(base, known)
    last_line = (
        f"{len(shown)} of {len(known)} options. --help {ALL} shows all; --help SECTION those of one of "
        f"{', '.join(sections)}."
    )
    hidden = set(names) - set(shown)
    parse_flags(type(base), base, [*words, "--help"], prog=prog, hidden=hidden, last_line=last_line)
    raise SystemExit(0)
