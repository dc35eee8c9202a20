"""Text that a model wrote, before anything else reads it."""

from __future__ import annotations


def is_text(text: str) -> bool:
    """Return whether UTF-8 can hold it: half of a surrogate pair, as JSON spells one, is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
