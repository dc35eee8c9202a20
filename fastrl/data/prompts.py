"""Prompts: render messages to a model's input tokens with the chat template, and begin an assistant turn."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, cast

from fastrl.types import Message


def render_prompt_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Render messages as the text that the model continues.

    Uses the tokenizer's chat template and opens the assistant's turn; without a template, see plain_text.

    Raises: ValueError: the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        return plain_text(messages)
    return apply_template(tokenizer, messages, add_generation_prompt=True)


def plain_text(messages: Sequence[Message]) -> str:
    """Join the contents unchanged: an assistant turn continues the text, any other turn begins a new line."""
    begins = ["" if message["role"] == "assistant" else "\n" for message in messages]
    begins[:1] = [""]
    return "".join(begin + message["content"] for begin, message in zip(begins, messages, strict=True))


def check_opens_turn(tokenizer: Any, messages: Sequence[Message]) -> None:
    """Refuse a template that ignores add_generation_prompt although its assistant turns have a header.

    A template such as Mistral's passes: its answers follow the user's turn directly.
    Raises: ValueError: the answer doesn't follow the prompt.
    """
    if tokenizer.chat_template is None:
        return
    prompt = apply_template(tokenizer, messages, add_generation_prompt=True)
    if prompt != apply_template(tokenizer, messages, add_generation_prompt=False):
        return
    answered = [*messages, Message(role="assistant", content="answer")]
    whole = apply_template(tokenizer, answered, add_generation_prompt=False)
    if not whole.removeprefix(prompt).lstrip().startswith("answer"):
        raise ValueError(
            "[data] chat template: expected one that opens the assistant's turn (add_generation_prompt), got "
            f"a prompt that ends in {prompt[-40:]!r} and an answer that begins with "
            f"{whole.removeprefix(prompt)[:40]!r}"
        )


def apply_template(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """Render the messages with the tokenizer's chat template.

    Raises: ValueError: the template refuses them, such as for an unknown role or their order.
    """
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError) as error:
        roles = [message["role"] for message in messages]
        way = (
            "; leave data.system_prompt out, or set data.merge_system true, which puts the system's text "
            "into the user's turn"
            if "system" in roles
            else ""
        )
        raise ValueError(
            f"[data] chat template: expected messages that it takes, got turns of {', '.join(roles)}: "
            f"{error}{way}"
        ) from error
    return text


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of render_prompt_text(tokenizer, messages).

    Only the template writes control tokens: one spelled out in a message's content ("<|im_end|>") is encoded
    as plain characters.
    """
    if tokenizer.chat_template is not None:
        return _render(tokenizer, messages)
    text = render_prompt_text(tokenizer, messages)
    return _open_ended(list(tokenizer.encode(text, split_special_tokens=True)), tokenizer)


def prompt_batch(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts of render_prompt_text in one call.

    The tokens equal render_prompt's unless a message's content spells out a control token.
    """
    own = tokenizer.chat_template is None
    options = {"split_special_tokens": True} if own else {}
    batch: list[list[int]] = tokenizer(list(texts), add_special_tokens=own, **options)["input_ids"]
    return [_open_ended(list(ids), tokenizer) for ids in batch] if own else batch


def _open_ended(token_ids: list[int], tokenizer: Any) -> list[int]:
    # without a template the tokenizer adds its start token; an end token would close the prompt
    while token_ids and token_ids[-1] == tokenizer.eos_token_id:
        token_ids.pop()
    return token_ids


def _render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Tokenise under a chat template; contents without special tokens are encoded within their context."""
    marks = Marks(tokenizer, messages)
    text = render_prompt_text(tokenizer, marks.put_in(messages))
    return marks.encode(text) if marks.tokens else _encode(tokenizer, text)


class Marks:
    """Placeholders for control tokens spelled out in contents; templates copy them unchanged.

    Args:
        messages: searched for spelled-out tokens; placeholders use a letter that occurs in none of them.
    """

    def __init__(self, tokenizer: Any, messages: Sequence[Message]) -> None:
        self._tokenizer = tokenizer
        self._spelled = control_tokens(tokenizer)
        found = (token for message in messages for token in self._spelled.findall(message["content"]))
        self.tokens = list(dict.fromkeys(found))
        """The control tokens that contents spell out."""
        self._letter = unused_letter(messages) if self.tokens else ""

    def put_in(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with spelled-out tokens replaced by marks."""
        return cast(list[Message], [{**each, "content": self.put(each["content"])} for each in messages])

    def put(self, text: str) -> str:
        if not self.tokens:
            return text
        mark = self._letter
        return self._spelled.sub(lambda found: f"{mark}{self.tokens.index(found[0])}{mark}", text)

    def unwritten(self, rendered: str) -> set[str]:
        """Return the spelled-out tokens that the template itself did not write into the rendered text.

        The start and end tokens never count; without a template the set is empty.
        """
        if self._tokenizer.chat_template is None:
            return set()
        written = {*self._spelled.findall(rendered), self._tokenizer.eos_token, self._tokenizer.bos_token}
        return set(self.tokens) - written

    def encode(self, text: str, *, inside: bool = False, read: Collection[str] = ()) -> list[int]:
        """Tokenise a rendered text; each mark becomes the plain characters of its token.

        Args:
            inside: the text follows another one.
            read: tokens whose marks become the control token itself.
        """
        first, *others = re.split(f"{self._letter}([0-9]+){self._letter}", text) if self.tokens else [text]
        tokenizer = self._tokenizer
        token_ids = (
            encode_inside(tokenizer, first, split_special=False) if inside else _encode(tokenizer, first)
        )
        for number, following in zip(others[::2], others[1::2], strict=True):
            token = self.tokens[int(number)]
            token_ids += encode_inside(tokenizer, token, split_special=token not in read)
            token_ids += encode_inside(tokenizer, following, split_special=False)
        return token_ids


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern that matches any of the tokenizer's special tokens in a text."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(special - {""}, key=len, reverse=True))) or r"(?!)")


def unused_letter(messages: Sequence[Message]) -> str:
    """Return a private-use character that no content has; templates copy it unchanged."""
    used = {letter for message in messages for letter in message["content"]}
    return next(letter for letter in map(chr, range(0xF0000, 0xFFFFE)) if letter not in used)


def continue_text(
    tokenizer: Any, messages: Sequence[Message], prefix_text: str
) -> tuple[list[int], list[int]]:
    """Begin the assistant's turn with prefix_text: return (prompt tokens, prefix tokens).

    The prompt is render_prompt(tokenizer, messages) whatever the prefix, so prefixes of a question share it.
    """
    return render_prompt(tokenizer, messages), encode_inside(tokenizer, prefix_text)


def encode_inside(tokenizer: Any, text: str, split_special: bool = True) -> list[int]:
    """Tokenise a text that follows another one, without a start token or a leading space.

    Args:
        split_special: encode a spelled-out "<|im_end|>" as plain characters; false for text that a template
            wrote.
    """
    if not _puts_space_first(tokenizer):
        return _encode(tokenizer, text, split_special_tokens=split_special)
    before = _encode(tokenizer, "\n")
    both = _encode(tokenizer, "\n" + text, split_special_tokens=split_special)
    whole = both[: len(before)] == before
    return both[len(before) :] if whole else _encode(tokenizer, text, split_special_tokens=split_special)


def _puts_space_first(tokenizer: Any) -> bool:
    """Return whether "a" at the start of a text is encoded as " a", as SentencePiece tokenizers do."""
    return _encode(tokenizer, "\na") != _encode(tokenizer, "\n") + _encode(tokenizer, "a")


def _encode(tokenizer: Any, text: str, **options: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, **options))


def shared_length(sequences: Sequence[list[int]]) -> int:
    """Return the length of the longest common prefix of all sequences."""
    first, last = min(sequences), max(sequences)  # in lexicographic order, these two differ earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
