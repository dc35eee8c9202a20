"""Assembles the page from template, style, script and data, so that nothing in the data can run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fastrl.report.html import document
from fastrl.report.page.folder import report_data
from fastrl.runtime.run import write_atomic

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("dom.js", "chart.js", "blocks.js", "explorer.js", "stage.js", "main.js")
"""Concatenated in this order."""


@dataclass(frozen=True, slots=True)
class Written:
    """A page on disk."""

    path: Path
    num_bytes: int
    notes: list[str]
    """Notes on rows that the page leaves out."""


def write_page(run_dir: str | Path, out: str | Path | None = None, max_rows: int = 20_000) -> Written:
    """Write a run's page as one HTML file that needs no other file and no network.

    Args:
        run_dir: folder of a run or of a pipeline.
        out: the file to write. None: report.html in run_dir.
        max_rows: largest number of completions per stage on the page; 0: all.
    Raises:
        FileNotFoundError: run_dir is no run folder.   ValueError: max_rows < 0.
    """
    if max_rows < 0:
        raise ValueError(f"[report] max_completions: expected >= 0, got {max_rows}")
    data = report_data(run_dir, max_rows)
    path = Path(run_dir) / "report.html" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = assemble(data)
    write_atomic(path, page)
    tables = [stage["table"] for stage in data["stages"] if stage["table"]]
    return Written(path, len(page), [table["note"] for table in tables if table["note"]])


def assemble(data: dict[str, Any], version: str = "") -> str:
    """Return the page in ASCII; with a version it is a served page that polls for newer data.

    Three measures keep the data from running. It is JSON without "<" in an element that browsers don't
    execute. The script inserts it only as text nodes. The content security policy allows only the script and
    style with the given hashes, and requests at most to the page's own server.
    """
    parts = {"title": escape(data["title"]), "data": safe_json(data), "version": version}
    # one pass, so that inserted text is not searched again
    body = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], asset("body.html"))
    names = [*SCRIPTS, "follow.js"] if version else SCRIPTS
    script = "(() => {\n'use strict';\n" + "".join(asset(name) for name in names) + "})();\n"
    title = f"{data['title']} - fastrl report"
    page = document(title, body, asset("page.css"), script, connects=bool(version))
    return page.encode("ascii", "xmlcharrefreplace").decode()


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="ascii")


def safe_json(data: Any) -> str:
    """Return JSON for <script type="application/json">: ASCII without "<"; NaN and infinities become null."""
    return json.dumps(finite(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if data - data == 0 else None
    if isinstance(data, dict):
        return {name: finite(value) for name, value in data.items()}
    return [finite(value) for value in data] if isinstance(data, list | tuple) else data
