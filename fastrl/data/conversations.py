"""From rows of a file to token sequences whose assistant tokens are trained."""

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
"""What CSV files hold in the column `end`."""


class Piece(NamedTuple):
    """A part of a conversation's text."""

    text: str
    weight: float
    """Of its tokens in the loss; 0: read, not trained."""
    closes: bool = False
    """A turn ends with it, and the end token is trained."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the file."""

    place: str
    """Where it stands, for errors."""
    messages: list[Message]
    begun: str | None
    """How the last turn begins, where the rest of it alone is trained in full; None: all turns are."""
    begun_weight: float
    """Of the beginning's tokens in the loss."""
    ends: bool
    """The end token is trained."""


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
    """Tokens and loss weights of every row of a JSONL, Parquet or CSV file.

        {"messages": [...]}                   every assistant turn is trained, up to its end token
        {"prompt": ..., "completion": ...}    the completion alone is trained, up to its end token
        {..., "prefix": ..., "end": false}    with prompt and completion: the prefix begins the turn and is
                                              trained with prefix_weight; no end token, the turn goes on

    A string prompt is a user's turn, a string completion an assistant's. A prompt that ends in an assistant's
    turn is a beginning: the completion goes on with it, within the same turn. system_prompt takes the place
    of a row's own system turn. Messages may be written as JSON in a text, as CSV holds them.

    A control token that a content spells out stays text, as in prompts. Only what is trained may have tokens
    that the template does not write itself, such as "<|python_tag|>": those are read as tokens, as the model
    samples them. So no content ends a turn or begins another.

    thinking_tags: what the assistant writes between them is taken out, with the tags.

    Raises:
        FileNotFoundError: no such file.   ValueError: a row that is none of these; names its line. With
            on_bad_row skip it is left out, and a warning counts them. Rows
            without the tags are counted.
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
    """The rows of the file, of the first `limit`, their thoughts taken out where there are tags."""
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
    """The rows with their thoughts taken out.

    Raises: ValueError: some have none to take out, or nothing else, or begin in the middle of a turn.
    """
    kept: list[Row] = []
    refused: list[str] = []
    for row in rows:
        # of a prompt and a completion, only the completion is trained
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
    """What a row says, checked."""
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
    """A conversation as it is, a string as one turn of this role; one written as JSON is read."""
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
    """The conversation's text under the chat template, cut where the assistant begins and ends to speak."""
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
    """The text so far less the token that the template writes only at a conversation's end, as Phi-3's does;
    the last piece loses it too. Unchanged where what follows goes on otherwise."""
    ends = re.compile(rf"(?:{control_tokens(tokenizer).pattern})\s*\Z")
    end = ends.search(done)
    kept = done[: end.start()] if end else done
    if not before.startswith(kept) or not ends.search(kept):
        return done
    pieces[-1] = pieces[-1]._replace(text=pieces[-1].text.removesuffix(done[len(kept) :]))
    return kept


def spoken(tokenizer: Any, messages: list[Message], before: str) -> str:
    """The conversation with its last turn, the assistant's, at its end."""
    if tokenizer.chat_template is None:
        return before + messages[-1]["content"]
    return apply_template(tokenizer, messages, add_generation_prompt=False)


def only_after(begun: str, weight: float, pieces: list[Piece], place: str) -> list[Piece]:
    """Nothing but the last turn is trained, its beginning with this weight."""
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
    """Each piece is tokenised by itself, so a prompt has the tokens that it has when it is sampled from.

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
                # What a template writes after the end token is never sampled, so it is not trained.
                trained_to = len(ids) if ends_at is None else ends_at + 1
        token_ids += ids
        weights += [piece.weight if index < trained_to else 0.0 for index in range(len(ids))]
    return TrainSequence(token_ids, [weight > 0 for weight in weights], weights)


def end_of_turn(ids: list[int], tokenizer: Any, special: Collection[int]) -> int | None:
    """Where the token stands that ends the turn: the tokenizer's end token, or, as in Gemma's and Phi's
    templates, another special token with nothing but special tokens and white space after it."""
    first = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else None
    for place in range(len(ids) - 1, -1, -1):
        if ids[place] in special:
            first = place if first is None else min(first, place)
        elif tokenizer.decode([ids[place]]).strip():
            break
    return first


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The tokenizer's special tokens, those that it has no name for too."""
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset((*tokenizer.all_special_ids, *added))


def following(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text that follows another: special tokens are read, and no space is put before it."""
    before: list[int] = tokenizer.encode("\n", add_special_tokens=False)
    both: list[int] = tokenizer.encode("\n" + text, add_special_tokens=False)
    if both[: len(before)] == before:
        return both[len(before) :]
    alone: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return alone
