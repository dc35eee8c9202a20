"""Tokens of every prompt: measured in batches, with progress, and kept by content."""

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
"""Prompts that are tokenised at once: a fast tokenizer spreads them over the cores."""
RULES = 2
"""A number for how prompts are written; where that changes, kept lengths are measured anew."""
MIN_CACHED = 2048
"""Fewer prompts are measured faster than a cache is worth."""
SECONDS_BETWEEN_REPORTS = 5.0


def prompt_lengths(tokenizer: Any, problems: Sequence[Problem]) -> list[int]:
    """Tokens of render_prompt of every problem.

    Cost: one tokenisation of all prompts; of 2,048 prompts or more none the second time, for the lengths are
    kept in the cache folder under a hash of tokenizer, template and messages.

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
    """The lengths, tokenised now; every five seconds a line on stderr says how far it is."""
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
    """A hash of all that the lengths depend on."""
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
    """The lengths that the file holds; None: there is none, or it is not whole."""
    try:
        lengths = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(lengths, list) and len(lengths) == count
    return lengths if whole and all(type(each) is int for each in lengths) else None


def keep_lengths(file: Path, lengths: Sequence[int]) -> None:
    """Write the lengths; other processes may do the same at once. A folder that can't be
    written is a warning."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump(list(lengths), out)
        os.replace(name, file)
    except OSError as error:
        warnings.warn(f"[data] lengths of prompts can't be kept in {file.parent}: {error}", stacklevel=2)
