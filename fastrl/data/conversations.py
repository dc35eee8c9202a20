"""Conversations for SFT: turn rows of a file into token sequences whose assistant tokens are trained."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from fastrl.data.cells import parsed
from fastrl.data.prompts import (
    Marks,
    apply_template,
    check_opens_turn,
    control_tokens,
    render_prompt,
    render_prompt_text,
)
from fastrl.data.rows import read_file
from fastrl.data.thinking import Tags, drop_thoughts
from fastrl.data.turns import WRITTEN_TURNS, merged_system, with_system_prompt
from fastrl.types import Message, TrainSequence

OnBadRow = Literal["error", "skip"]
BOOLEANS = {"true": True, "True": True, "false": False, "False": False, "": True}
"""Values of the column `end` in a CSV file."""


class Piece(NamedTuple):
    """A part of a conversation's text."""

    text: str
    weight: float
    """Weight of its tokens in the loss; 0: context only, not trained."""
    closes: bool = False
    """True if a turn ends here and its end token is trained."""


@dataclass(frozen=True, slots=True)
class Row:
    """A checked row of the file."""

    place: str
    """File and line, for errors."""
    messages: list[Message]
    begun: str | None
    """Beginning of the last turn, if only the rest of that turn is trained in full; None: train all turns."""
    begun_weight: float
    """Weight of the beginning's tokens in the loss."""
    ends: bool
    """True if the last turn's end token is trained."""


def read_conversations(
    path: str,
    tokenizer: Any,
    *,
    system_prompt: str | None = None,
    limit: int | None = None,
    prefix_weight: float = 1.0,
    thinking_tags: Tags | None = None,
    on_bad_row: OnBadRow = "error",
    merge_system: bool = False,
) -> list[TrainSequence]:
    """Read a JSONL, Parquet or CSV file into tokens and loss weights, one sequence per row.

        {"messages": [...]}                   every assistant turn is trained, up to its end token
        {"prompt": ..., "completion": ...}    only the completion is trained, up to its end token
        {..., "prefix": ..., "end": false}    with prompt and completion: the prefix begins the turn and is
                                              trained with prefix_weight; no end token, the turn continues

    A string prompt is a user turn, a string completion an assistant turn. If a prompt ends in an assistant
    turn, the completion continues that turn. system_prompt replaces a row's own system turn. Messages may be
    a JSON string, as in CSV files.

    A control token spelled out in a message's content stays text, as in prompts; so no content ends a turn or
    begins another. The exception: in trained pieces, a token that the template never writes itself, such as
    "<|python_tag|>", is encoded as that token, since the model samples it.

    thinking_tags: remove the assistant's text between these tags, and the tags.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a row has another form (names its line), or lacks the thinking tags (counts such rows).
            With on_bad_row skip, rows of another form are left out and a warning counts them.
    """
    sequences: list[TrainSequence] = []
    special = special_ids(tokenizer)
    for row in rows_of_file(path, limit, prefix_weight, thinking_tags, on_bad_row):
        messages = with_system_prompt(row.messages, system_prompt)
        messages = merged_system(messages) if merge_system else messages
        marks = Marks(tokenizer, messages)
        try:
            pieces = pieces_of(marks.put_in(messages), tokenizer, row.place)
        except ValueError as error:
            named = str(error).startswith(row.place)
            raise error if named else ValueError(f"{row.place}: {error}") from error
        if row.begun is not None:
            pieces = only_after(marks.put(row.begun), row.begun_weight, pieces, row.place)
        pieces[-1] = pieces[-1]._replace(closes=row.ends)
        before = [message["role"] for message in messages].index("assistant")
        if before and not sequences:
            check_opens_turn(tokenizer, messages[:before])
        prompt = render_prompt(tokenizer, messages[:before])
        sequences.append(encode(prompt, pieces, tokenizer, special, marks))
    return sequences


def rows_of_file(
    path: str,
    limit: int | None,
    prefix_weight: float,
    thinking_tags: Tags | None,
    on_bad_row: OnBadRow = "error",
) -> list[Row]:
    """Return the first `limit` rows of the file; if tags are given, without their thoughts."""
    rows: list[Row] = []
    bad: list[str] = []
    for each in read_file(path, limit):
        place = f"[data] {each.place}"
        try:
            if each.fault is not None:
                raise ValueError(f"{place}: {each.fault}")
            rows.append(row_of(each.row, place, prefix_weight))
        except ValueError as error:
            if on_bad_row == "error":
                raise
            bad.append(str(error))
    if not rows:
        raise ValueError(f"[data] path: expected at least one good row in {path!r}, got none: {bad[0]}")
    if bad:
        warnings.warn(
            f"[data] {path}: {len(bad)} of {len(bad) + len(rows)} rows skipped, as data.on_bad_row says; the "
            f"first: {bad[0]}",
            stacklevel=2,
        )
    return rows if thinking_tags is None else without_thinking(rows, thinking_tags)


def without_thinking(rows: Sequence[Row], tags: Tags) -> list[Row]:
    """Remove the thoughts from the rows.

    Raises: ValueError: a row has no thought, nothing but a thought, or begins its trained turn (prefix).
    """
    kept: list[Row] = []
    refused: list[str] = []
    for row in rows:
        # in a row of prompt and completion, only the completion is trained
        messages = None if row.begun else drop_thoughts(row.messages, tags, last_only=row.begun is not None)
        if messages is None:
            refused.append(row.place)
        else:
            kept.append(replace(row, messages=messages))
    if refused:
        raise ValueError(
            f"{refused[0]}: expected {tags[0]}...{tags[1]} and an answer in every trained turn, since "
            f"sft.thinking is drop; got {len(refused)} of {len(rows)} rows without, this one first"
        )
    return kept


def row_of(row: Mapping[str, Any], place: str, prefix_weight: float) -> Row:
    """Check a row of the file and return it as a Row."""
    if row.get("messages") is not None:
        messages = messages_of(row["messages"], "user", f"{place}, column 'messages'")
        if all(message["role"] != "assistant" for message in messages):
            raise ValueError(
                f"{place}, column 'messages': expected an assistant's turn to train on, got none"
            )
        return Row(place, messages, None, 0.0, ends_of(row, place))
    if row.get("prompt") is None or row.get("completion") is None:
        raise ValueError(f"{place}: expected messages, or prompt and completion, got {sorted(row)}")
    prompt = messages_of(row["prompt"], "user", f"{place}, column 'prompt'")
    completion = messages_of(row["completion"], "assistant", f"{place}, column 'completion'")
    if [message["role"] for message in completion] != ["assistant"]:
        raise ValueError(
            f"{place}, column 'completion': expected one assistant's turn, got {row['completion']!r}"
        )
    begun, weight = prompt.pop()["content"] if prompt[-1]["role"] == "assistant" else "", 0.0
    prefix = row.get("prefix") or ""
    if not isinstance(prefix, str) or (prefix and begun):
        raise ValueError(
            f"{place}: prefix: expected text, after a prompt that ends in a user's turn, got {prefix!r}"
        )
    if prefix:
        begun, weight = prefix, prefix_weight
    turn = Message(role="assistant", content=begun + completion[0]["content"])
    return Row(place, [*prompt, turn], begun, weight, ends_of(row, place))


def ends_of(row: Mapping[str, Any], place: str) -> bool:
    ends = row.get("end")
    ends = BOOLEANS.get(ends, ends) if isinstance(ends, str) else True if ends is None else ends
    if not isinstance(ends, bool):
        raise ValueError(f"{place}: end: expected true or false, got {ends!r}")
    return ends


def messages_of(value: Any, role: str, place: str) -> list[Message]:
    """Return a cell as messages: a list as it is, a JSON string parsed, any other string as one turn."""
    if isinstance(value, str) and WRITTEN_TURNS.match(value):
        value = parsed(value)
        if isinstance(value, str):
            raise ValueError(f"{place}: expected messages in JSON, got {value[:200]!r}")
    if isinstance(value, str):
        return [Message(role=role, content=value)]
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        raise ValueError(f"{place}: expected a string or a list of messages, got {value!r}")
    for turn in value:
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str):
            raise ValueError(f"{place}: expected messages with role and content, got {turn!r}")
    return [Message(role=turn["role"], content=turn["content"]) for turn in value]


def pieces_of(messages: list[Message], tokenizer: Any, place: str) -> list[Piece]:
    """Render the conversation with the chat template and cut it where assistant turns begin and end."""
    pieces: list[Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render_prompt_text(tokenizer, messages[:index])
            after = spoken(tokenizer, messages[: index + 1], before)
            done = done if before.startswith(done) else less_end(done, before, pieces, tokenizer)
            if not before.startswith(done) or not after.startswith(before):
                raise ValueError(
                    f"{place}: expected a chat template under which turn {index} of {len(messages)} follows "
                    "what was rendered before it; give each assistant's turn a row with prompt and "
                    "completion, set data.merge_system if there is a system turn, or take another template: "
                    "data.chat_template"
                )
            pieces += [Piece(before[len(done) :], 0.0), Piece(after[len(before) :], 1.0, closes=True)]
            done = after
    if not pieces:
        raise ValueError(f"{place}: expected an assistant's turn to train on, got none")
    return pieces


def less_end(done: str, before: str, pieces: list[Piece], tokenizer: Any) -> str:
    """Return the text so far without the token that the template writes only after the last turn.

    Phi-3's template writes one. The last piece loses it too. If the longer conversation doesn't continue the
    shortened text either, return the text unchanged.
    """
    ends = re.compile(rf"(?:{control_tokens(tokenizer).pattern})\s*\Z")
    end = ends.search(done)
    kept = done[: end.start()] if end else done
    if not before.startswith(kept) or not ends.search(kept):
        return done
    pieces[-1] = pieces[-1]._replace(text=pieces[-1].text.removesuffix(done[len(kept) :]))
    return kept


def spoken(tokenizer: Any, messages: list[Message], before: str) -> str:
    """Render the conversation including its last turn, which is the assistant's."""
    if tokenizer.chat_template is None:
        return before + messages[-1]["content"]
    return apply_template(tokenizer, messages, add_generation_prompt=False)


def only_after(begun: str, weight: float, pieces: list[Piece], place: str) -> list[Piece]:
    """Train only the last turn, and its beginning with this weight."""
    text = pieces[-1].text
    if not text.startswith(begun):
        raise ValueError(
            f"{place}: the chat template changes how the assistant's turn begins: {begun!r} in {text!r}"
        )
    beginning = [Piece(begun, weight)] if begun else []
    read = [Piece(piece.text, 0.0) for piece in pieces[:-1]]
    return [*read, *beginning, pieces[-1]._replace(text=text[len(begun) :])]


def encode(
    prompt: list[int], pieces: list[Piece], tokenizer: Any, special: Collection[int], marks: Marks
) -> TrainSequence:
    """Tokenise each piece separately, so that a prompt has the same tokens as in sampling.

    Args:
        prompt: tokens of the first piece.
    """
    token_ids, weights = list(prompt), [0.0] * len(prompt)
    end = tokenizer.eos_token_id
    own = marks.unwritten("".join(piece.text for piece in pieces))
    for piece in pieces[1:]:
        read = own if piece.weight else ()
        ids = (
            marks.encode(piece.text, inside=True, read=read)
            if marks.tokens
            else following(tokenizer, piece.text)
        )
        trained_to = len(ids)
        if piece.weight:
            ends_at = end_of_turn(ids, tokenizer, special)
            if not piece.closes:
                ids = ids[:ends_at]
                trained_to = len(ids)
            else:
                ids += [end] if ends_at is None else []
                # tokens that a template writes after the end token are never sampled, so not trained
                trained_to = len(ids) if ends_at is None else ends_at + 1
        token_ids += ids
        weights += [piece.weight if index < trained_to else 0.0 for index in range(len(ids))]
    return TrainSequence(token_ids, [weight > 0 for weight in weights], weights)


def end_of_turn(ids: list[int], tokenizer: Any, special: Collection[int]) -> int | None:
    """Return the index of the token that ends the turn; None if there is none.

    That is the tokenizer's end token or, as in Gemma's and Phi's templates, another special token that is
    followed only by special tokens and white space.
    """
    first = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else None
    for place in range(len(ids) - 1, -1, -1):
        if ids[place] in special:
            first = place if first is None else min(first, place)
        elif tokenizer.decode([ids[place]]).strip():
            break
    return first


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokenizer's special tokens, including those without a name such as eos_token."""
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset((*tokenizer.all_special_ids, *added))


def following(tokenizer: Any, text: str) -> list[int]:
    """Tokenise a text that continues another: special tokens are parsed, and no space is put before it."""
    before: list[int] = tokenizer.encode("\n", add_special_tokens=False)
    both: list[int] = tokenizer.encode("\n" + text, add_special_tokens=False)
    if both[: len(before)] == before:
        return both[len(before) :]
    alone: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return alone
