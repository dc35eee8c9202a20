"""What must not be written down or handed on: secrets of the environment, the path of somebody's home."""

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
"""Rather one name too many: a hidden value costs a question, a shown one can't be taken back."""
HARMLESS = {"PWD", "OLDPWD", "TOKENIZERS_PARALLELISM"}
"""Names that look like secrets and are none."""


def is_secret(name: str) -> bool:
    """Whether an environment variable's name says that its value is nobody else's business."""
    return name not in HARMLESS and SECRET.search(name) is not None


NEEDED = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX"
    r"|PYTHON(PATH|HOME|HASHSEED|UTF8|WARNINGS|UNBUFFERED|DONTWRITEBYTECODE)|(OMP|MKL|OPENBLAS)_NUM_THREADS"
)
"""What Python and its libraries need to start and to find their files."""


def for_graders(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a process that reads what models have written: those of a short list."""
    return {name: value for name, value in environment.items() if NEEDED.fullmatch(name)}


def shortened(text: str, home: str | None = None) -> str:
    """The text with ~ where the home folder's path stands; credentials inside addresses are taken out."""
    home = str(Path.home()) if home is None else home
    if home.strip(os.sep):
        text = re.sub(rf"{re.escape(home.rstrip(os.sep))}(?=$|[{re.escape(os.sep)}:;,\s'\"])", "~", text)
    return re.sub(r"(?<=://)[^/\s@]+@", "***@", text)
