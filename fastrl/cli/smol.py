"""fastrl smol: make the folder that the *-smol recipes train in: SmolLM2-135M-Instruct, and problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastrl.config.flags import parse_flags
from fastrl.smol.world import build_world


@dataclass(frozen=True, slots=True, kw_only=True)
class SmolOptions:
    """A real pretrained model (in model/) and problems, {chains,countdown,stories}-{train,test,sft}.jsonl."""

    dir: str = "smol-world"
    """Folder to make; one that exists is checked. Recipes *-smol read smol-world."""


def main(arguments: list[str]) -> int:
    """Make or check the folder and print it."""
    options = parse_flags(SmolOptions, None, arguments, prog="fastrl smol")
    print(build_world(Path(options.dir)))
    return 0
