"""Validity of text that a model wrote."""

from __future__ import annotations


def is_text(text: str) -> bool:
    """Return True if UTF-8 can encode the text; a lone surrogate, which JSON can spell, is not encodable."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
