"""fastrl tiny: write the tiny worlds for the *-tiny recipes into a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from fastrl.config.flags import parse_flags
from fastrl.tiny.folders import export
from fastrl.tiny.interventions.make import copy_int_world
from fastrl.tiny.lessons import shown_lessons
from fastrl.tiny.tracelift.make import copy_lift_world
from fastrl.tiny.weak.make import copy_weak_world
from fastrl.tiny.world.conversations import write_conversations
from fastrl.tiny.world.make import copy_world


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyOptions:
    """Write the tiny world as a folder: generator, receiver, held_out_receiver, {train,test,sft}.jsonl."""

    dir: str = "tiny-world"
    """Folder to write; the *-tiny recipes read tiny-world."""
    tracelift: bool = False
    """Add planner, executor, held_out_executor, and problems and judged traces of both tasks as
    {math,code}-{train,test,seeds}.jsonl."""
    int: bool = False
    """Add solver, and problems that it rarely solves as int-{train,test}.jsonl."""
    weak: bool = False
    """Add generators trained to write from faithfully (weak-explicit) to unfaithfully (weak-guessed), the
    untrained weak-base, and weak-{train,test,long,text,traces}.jsonl."""


def main(arguments: list[str]) -> int:
    """Write the selected worlds and print the folder."""
    options = parse_flags(TinyOptions, None, arguments, prog="fastrl tiny")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    copies: list[Callable[[Path], None]] = [copy_world, write_conversations]
    copies += [copy_lift_world] if options.tracelift else []
    copies += [copy_int_world] if options.int else []
    copies += [copy_weak_world] if options.weak else []
    with shown_lessons():
        folder = export(options.dir, copies)
    print(folder)
    return 0
