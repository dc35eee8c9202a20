"""Raw text for pretraining: lay documents end to end and cut them into rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fastrl.config import TextConfig
from fastrl.data.rows import read_rows
from fastrl.types import TrainSequence


class TextRows:
    """Rows of at most seq_len tokens, made of pieces of documents.

    Each piece is a sequence of its own, so no token attends to another document.

        row = piece | piece | ...            piece = consecutive tokens of one document

    All tokens of a piece but its first are trained. A document that doesn't fit into a row continues in the
    next, whose piece begins with the last token of the piece before. So every token of a document but its
    first is trained exactly once. All rows but the last have seq_len tokens, or one less.

    Cost: 4 bytes per token.
    """

    def __init__(self, documents: Iterable[Sequence[int]], seq_len: int) -> None:
        """Args: documents: token lists of at least 2 tokens.   seq_len: at least 2."""
        arrays = [np.asarray(tokens, dtype=np.int32) for tokens in documents]
        self._tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        self._pieces, self._rows = cut([len(each) for each in arrays], seq_len)

    def __len__(self) -> int:
        return len(self._rows) - 1

    def __getitem__(self, row: int) -> list[TrainSequence]:
        """Return the pieces of a row."""
        pieces = self._pieces[self._rows[row] : self._rows[row + 1]]
        return [whole(self._tokens[start:stop].tolist()) for start, stop in pieces]

    @property
    def num_trained(self) -> int:
        """Tokens that one epoch trains."""
        return int((self._pieces[:, 1] - self._pieces[:, 0] - 1).sum())


def whole(tokens: list[int]) -> TrainSequence:
    """Mark all tokens as trained; `pack` leaves out the first one, which nothing predicts."""
    return TrainSequence(tokens, [True] * len(tokens))


def cut(lengths: Sequence[int], seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents into pieces and rows.

    Returns: [P, 2] start and stop of each piece among all tokens; [R + 1] first piece of each row, then P.
    """
    pieces: list[tuple[int, int]] = []
    rows, room, start = [0], seq_len, 0
    for length in lengths:
        stop, here = start + length, start
        while here < stop - 1:
            if room < 2:  # a piece of one token would train none
                rows.append(len(pieces))
                room = seq_len
            end = min(stop, here + room)
            pieces.append((here, end))
            room -= end - here
            here = end - 1  # the next piece predicts its first new token from this one
        start = stop
    if pieces:
        rows.append(len(pieces))
    return np.asarray(pieces, dtype=np.int64).reshape(-1, 2), np.asarray(rows, dtype=np.int64)


def encode_documents(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """Tokenise each document: the start token if the tokenizer adds one, the text, the end token.

    A special token spelled out in a text stays text.
    """
    end = tokenizer.eos_token_id
    for number, text in enumerate(texts, start=1):
        tokens = list(tokenizer.encode(text, split_special_tokens=True))
        if tokens and tokens[-1] == end:
            tokens.pop()
        if not tokens:
            raise ValueError(
                f"[data] path, document {number}: expected text that has tokens, got {text[:60]!r}"
            )
        yield [*tokens, end]


def read_texts(config: TextConfig, limit: int | None = None) -> list[str]:
    """Read the documents of a file of rows, a .txt file, or a folder's .txt files in order of their names.

    limit: maximum number of documents, instead of config.limit.
    Raises:
        FileNotFoundError: no such file.
        ValueError: no document, a row without text in config.text_column, or a .txt file without text.
    """
    limit = config.limit if limit is None else limit
    path = Path(config.path)
    if path.is_dir():
        files = list(islice(sorted(path.glob("*.txt")), limit))
        if not files:
            raise ValueError(f"[data] path: expected a folder with .txt files, got none in {config.path!r}")
        return [read_text(file) for file in files]
    if path.suffix == ".txt":
        return [read_text(path)]
    rows = read_rows(config.path, limit)
    if config.text_column not in rows[0]:
        raise ValueError(
            f"[data] text_column: expected one of {', '.join(sorted(rows[0]))}, the columns of "
            f"{config.path!r}, got {config.text_column!r}"
        )
    return [
        text_of(row.get(config.text_column), f"{config.path} row {number}")
        for number, row in enumerate(rows, start=1)
    ]


def read_text(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(f"[data] path: expected an existing file, got {str(file)!r}")
    return text_of(file.read_text(encoding="utf-8"), str(file))


def text_of(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"[data] {place}: expected text, got {value!r}")
    return value
