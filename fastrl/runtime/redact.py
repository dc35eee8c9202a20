"""Redaction of secrets in environment variables and addresses, and of the home folder's path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

SECRET = re.compile(
    r"TOKEN|KEY|SECRET|PASS|PWD|CREDENTIAL|AUTH|COOKIE|PROXY|DSN|HOOK|CONNECTION|SESSION|PRIVATE|JWT|BEARER"
    r"|UR[IL]$|_(PAT|SAS)$",
    re.IGNORECASE,
)
"""Names of variables that may hold a secret; broad on purpose, since a leak can't be undone."""
HARMLESS = {"PWD", "OLDPWD", "TOKENIZERS_PARALLELISM"}
"""Names that match SECRET but hold no secret."""


def is_secret(name: str) -> bool:
    """Return True if an environment variable's name suggests that its value is a secret."""
    return name not in HARMLESS and SECRET.search(name) is not None


NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX"
    r"|PYTHON(PATH|HOME|HASHSEED|UTF8|WARNINGS|UNBUFFERED|DONTWRITEBYTECODE)|(OMP|MKL|OPENBLAS)_NUM_THREADS"
)
"""Names of variables that Python and its libraries need to start and to find their files."""


def for_graders(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a process reading model output receives: only those in NEEDED."""
    return {name: value for name, value in environment.items() if NEEDED.fullmatch(name)}


def shortened(text: str, home: str | None = None) -> str:
    """Return the text with the home folder's path replaced by ~ and credentials removed from URLs."""
    home = str(Path.home()) if home is None else home
    if home.strip(os.sep):
        text = re.sub(rf"{re.escape(home.rstrip(os.sep))}(?=$|[{re.escape(os.sep)}:;,\s'\"])", "~", text)
    return re.sub(r"(?<=://)[^/\s@]+@", "***@", text)
