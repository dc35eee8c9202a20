"""Prompt lengths in tokens: measured in batches with progress, and cached by content."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from fastrl.data.problems import Problem
from fastrl.data.prompts import (
    check_opens_turn,
    control_tokens,
    prompt_batch,
    render_prompt,
    render_prompt_text,
)
from fastrl.runtime.cache import cache_root

BATCH = 1024
"""Prompts per tokenizer call; a fast tokenizer spreads them over the cores."""
RULES = 2
"""Version of the rules that render prompts; raise it when they change, to discard cached lengths."""
MIN_CACHED = 2048
"""Fewer prompts than this are measured each time, without the cache."""
SECONDS_BETWEEN_REPORTS = 5.0


def prompt_lengths(tokenizer: Any, problems: Sequence[Problem]) -> list[int]:
    """Return the number of tokens of each problem's prompt, as render_prompt encodes it.

    Cost: tokenises every prompt. From 2,048 prompts on, only the first time: the lengths are cached under a
    hash of tokenizer, template and messages.

    Raises: ValueError: the chat template refuses a prompt; names its row.
    """
    if len(problems) < MIN_CACHED:
        return measured(tokenizer, problems)
    file = cache_root() / "lengths" / f"{content_key(tokenizer, problems)}.json"
    known = read_lengths(file, len(problems))
    if known is None:
        known = measured(tokenizer, problems)
        keep_lengths(file, known)
    return known


def measured(tokenizer: Any, problems: Sequence[Problem]) -> list[int]:
    """Tokenise the prompts and return their lengths; print progress to stderr every five seconds."""
    lengths: list[int] = []
    rendered(tokenizer, problems[0])
    check_opens_turn(tokenizer, problems[0].messages)
    reported, spelled = monotonic(), control_tokens(tokenizer)
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        prompts = prompt_batch(tokenizer, [rendered(tokenizer, problem) for problem in batch])
        for problem, prompt in zip(batch, prompts, strict=True):
            spells = any(spelled.search(message["content"]) for message in problem.messages)
            lengths.append(len(render_prompt(tokenizer, problem.messages) if spells else prompt))
        if monotonic() - reported > SECONDS_BETWEEN_REPORTS:
            reported = monotonic()
            print(f"[data] measured {len(lengths)} of {len(problems)} prompts", file=sys.stderr)
    return lengths


def rendered(tokenizer: Any, problem: Problem) -> str:
    try:
        return render_prompt_text(tokenizer, problem.messages)
    except ValueError as error:
        raise ValueError(f"{error} (row {problem.index + 1})") from error


def content_key(tokenizer: Any, problems: Sequence[Problem]) -> str:
    """Return a hash of everything that the lengths depend on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    digest = hashlib.blake2b(digest_size=20)
    names = (RULES, type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map)
    for part in (vocabulary, *names):
        digest.update(json.dumps(part, default=str).encode())
    for problem in problems:
        digest.update(json.dumps(problem.messages).encode())
    return digest.hexdigest()


def read_lengths(file: Path, count: int) -> list[int] | None:
    """Read the lengths in a file; None if it is missing, broken or has another number of them."""
    try:
        lengths = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(lengths, list) and len(lengths) == count
    return lengths if whole and all(type(each) is int for each in lengths) else None


def keep_lengths(file: Path, lengths: Sequence[int]) -> None:
    """Write the lengths atomically, since other processes may write them too; warn if the folder isn't
    writable."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump(list(lengths), out)
        os.replace(name, file)
    except OSError as error:
        warnings.warn(f"[data] lengths of prompts can't be kept in {file.parent}: {error}", stacklevel=2)
