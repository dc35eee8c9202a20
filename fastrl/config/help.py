"""--help in tiers: the usual options, those of one section, or all."""

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
    """Return the flags without --help, and the section named after it.

    The section is "" if --help names none, and None if there is no --help.
    """
    words = list(overrides)
    index = next((i for i, word in enumerate(words) if word in ("-h", "--help")), None)
    if index is None:
        return words, None
    named = words[index + 1 : index + 2]
    topic = named[0] if named and not named[0].startswith("-") else ""
    del words[index : index + 1 + bool(topic)]
    return words, topic


def show_help(base: Any, words: Sequence[str], topic: str, unused: Mapping[str, str], prog: str) -> NoReturn:
    """Print the usual options, those of the section `topic`, or all; then exit with code 0.

    Args:
        topic: "" (the usual options), a section, or "all".
        unused: {section: option that would use it} of the sections that the configuration does not use.
    Raises: ValueError: the section is unknown or unused.
    """
    names = field_names(type(base))
    known = [name for name in names if name.rsplit(".", 1)[-1] != "stage" and is_in(name, unused) is None]
    sections = sorted({name[: dot.start()] for name in known for dot in re.finditer(r"\.", name)})
    if topic in unused:
        refuse("help", "SECTION", f"{topic} only with {unused[topic]}", topic)
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
