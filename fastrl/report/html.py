"""The frame of a self-contained HTML page, with its content security policy."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape

STYLE = """\
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid var(--line); padding: .2rem .8rem; text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
small { opacity: .75; }
"""
"""Base style; pages append their own."""


def document(title: str, body: str, style: str, script: str = "", connects: bool = False) -> str:
    """Return the page. Its content security policy allows only this style and script, and no requests.

    Args:
        title: plain text.
        body: markup; the caller has escaped all text in it.
        connects: allow requests to the page's own server.
    """
    allowed = [f"style-src '{digest(style)}'", *([f"script-src '{digest(script)}'"] if script else [])]
    allowed += ["connect-src 'self'"] if connects else []
    policy = "; ".join(["default-src 'none'", *allowed, "base-uri 'none'", "form-action 'none'"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def digest(source: str) -> str:
    """Return the hash by which a content security policy names a style or script."""
    return "sha256-" + b64encode(hashlib.sha256(source.encode()).digest()).decode()
