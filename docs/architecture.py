"""Writes docs/architecture.md from the first line of every source file.

python docs/architecture.py
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = ("fastrl", "kernels", "csrc", "bench")
SUFFIXES = (".py", ".h", ".cpp", ".cu", ".js")
WIDTH = 140
INTRODUCTION = """\
# Architecture

Every source file in one sentence: the first of the file itself. `python docs/architecture.py`
writes this page. A test fails if it is out of date.

Imports run downwards only (`tests/test_floors.py`): a folder may import the folders below it.

| floor | holds |
|---|---|
| `cli` | one file per command |
| `tiny`, `smol` | the tiny worlds; a small pretrained model with problems |
| `tools`, `integrations` | plan, doctor, sweep, compare; TRL, verl, transformers |
| `train`, `check`, `stages` | the entry of all stages; what is refused before a model loads; the stages |
| `methods` | `rltr`, `tracelift`, `interventions`, `weak`: one folder per paper, none imports another |
| `training` | the parts of the RL loop: sample, advantages, update, metrics, guards |
| `evaluate`, `rewards`, `report` | accuracy; the interface of rewards; console, plots, HTML page |
| `engine`, `policy` | generation and scoring, embedded (`tree`) or vLLM; the trained model |
| `grading`, `data` | answers and programs against their gold; rows, problems, prompts |
| `runtime`, `config` | run folder, ranks, seeding, errors; dataclasses, recipes, flags |
| `ops`, `kernels`, `types` | the public face of the kernels; the kernels; plain data that all share |
"""


def sources() -> list[Path]:
    """Return the source files that are not empty, by folder; compiled copies and links are left out."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            linked = any(parent.is_symlink() for parent in path.parents)
            if path.suffix in SUFFIXES and path.stat().st_size and not linked:
                found.append(path)
    return sorted(found, key=lambda path: (FOLDERS.index(path.relative_to(ROOT).parts[0]), path.parent, path))


def first_sentence(path: Path) -> str:
    """Return the first sentence of a Python file's docstring, or of another file's first comment.

    Raises:
        ValueError: the file has neither.
    """
    text = path.read_text()
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        block = re.search(r"(?:^//.*\n)+", text, re.MULTILINE)
        said = re.sub(r"^// ?", "", block.group(), flags=re.MULTILINE) if block else ""
    sentence = re.split(r"(?<=[.?!])\s|:?\n\n", said.strip(), maxsplit=1)[0]
    if not sentence:
        raise ValueError(
            f"[architecture] {path.relative_to(ROOT)}: expected a first line that says what it is"
        )
    return " ".join(sentence.split()).rstrip(".:")


def page() -> str:
    """Return the whole page."""
    lines, folder = [INTRODUCTION], None
    for path in sources():
        if path.parent != folder:
            folder = path.parent
            lines.append(f"\n## {folder.relative_to(ROOT)}/\n\n")
        entry = f"- [{path.name}](../{path.relative_to(ROOT)}): {first_sentence(path)}"
        lines.append(textwrap.fill(entry, WIDTH, subsequent_indent="  ", break_on_hyphens=False) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
