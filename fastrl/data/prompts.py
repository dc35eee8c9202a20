"""From messages to the tokens a model reads: the chat template, an assistant turn that has begun."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, cast

from fastrl.types import Message


def render_prompt_text(tokenizer: Any, messages: Sequence[Message]) -> str:
    """What the model reads before it answers.

    The tokenizer's chat template with the assistant's turn opened; a tokenizer that has none gets the text as
    it is, see plain_text.

    Raises: ValueError: the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        return plain_text(messages)
    return apply_template(tokenizer, messages, add_generation_prompt=True)


def plain_text(messages: Sequence[Message]) -> str:
    """The contents as they are: what an assistant says goes on where the prompt ends, every other turn begins
    a line."""
    begins = ["" if message["role"] == "assistant" else "\n" for message in messages]
    begins[:1] = [""]
    return "".join(begin + message["content"] for begin, message in zip(begins, messages, strict=True))


def check_opens_turn(tokenizer: Any, messages: Sequence[Message]) -> None:
    """Refuse a template that has a beginning of the assistant's turn and doesn't write it for a prompt.

    A template whose answers follow the user's turn directly, as Mistral's, has none to write.
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
    """The messages under the tokenizer's chat template.

    Raises: ValueError: the template refuses them: a role that it doesn't know, an order that it doesn't take.
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
    """Tokens of render_prompt_text(tokenizer, messages).

    Only the template writes control tokens: one that a message's content spells out ("<|im_end|>") is read as
    the characters that it consists of, whoever wrote it.
    """
    if tokenizer.chat_template is not None:
        return _render(tokenizer, messages)
    text = render_prompt_text(tokenizer, messages)
    return _open_ended(list(tokenizer.encode(text, split_special_tokens=True)), tokenizer)


def prompt_batch(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of prompts that render_prompt_text has written, tokenised at once.

    As render_prompt's where no content spells out a control token.
    """
    own = tokenizer.chat_template is None
    options = {"split_special_tokens": True} if own else {}
    batch: list[list[int]] = tokenizer(list(texts), add_special_tokens=own, **options)["input_ids"]
    return [_open_ended(list(ids), tokenizer) for ids in batch] if own else batch


def _open_ended(token_ids: list[int], tokenizer: Any) -> list[int]:
    # without a template the tokenizer itself puts its start token; an end token would close the prompt
    while token_ids and token_ids[-1] == tokenizer.eos_token_id:
        token_ids.pop()
    return token_ids


def _render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Tokens under a chat template. Contents without special tokens are encoded with what is around them."""
    marks = Marks(tokenizer, messages)
    text = render_prompt_text(tokenizer, marks.put_in(messages))
    return marks.encode(text) if marks.tokens else _encode(tokenizer, text)


class Marks:
    """Stand-ins for the control tokens that contents spell out, which a template leaves as they are.

    Args:
        messages: whose contents are looked through, and have letters that no mark may have.
    """

    def __init__(self, tokenizer: Any, messages: Sequence[Message]) -> None:
        self._tokenizer = tokenizer
        self._spelled = control_tokens(tokenizer)
        found = (token for message in messages for token in self._spelled.findall(message["content"]))
        self.tokens = list(dict.fromkeys(found))
        """Those that are spelled out."""
        self._letter = unused_letter(messages) if self.tokens else ""

    def put_in(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages with marks in place of spelled-out tokens."""
        return cast(list[Message], [{**each, "content": self.put(each["content"])} for each in messages])

    def put(self, text: str) -> str:
        if not self.tokens:
            return text
        mark = self._letter
        return self._spelled.sub(lambda found: f"{mark}{self.tokens.index(found[0])}{mark}", text)

    def unwritten(self, rendered: str) -> set[str]:
        """Return the spelled-out tokens that a template has not written itself into what it rendered; none
        where there is no template."""
        if self._tokenizer.chat_template is None:
            return set()
        written = {*self._spelled.findall(rendered), self._tokenizer.eos_token, self._tokenizer.bos_token}
        return set(self.tokens) - written

    def encode(self, text: str, *, inside: bool = False, read: Collection[str] = ()) -> list[int]:
        """Return the tokens of a rendered text: what the template wrote, and for a mark the characters that
        its token consists of.

        Args:
            inside: the text follows another one.
            read: tokens whose marks stand for themselves.
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
    """Return a pattern of the tokenizer's special tokens as somebody would spell them out."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    return re.compile("|".join(map(re.escape, sorted(special - {""}, key=len, reverse=True))) or r"(?!)")


def unused_letter(messages: Sequence[Message]) -> str:
    """Return a letter for private use that no content has; a template leaves it as it is."""
    used = {letter for message in messages for letter in message["content"]}
    return next(letter for letter in map(chr, range(0xF0000, 0xFFFFE)) if letter not in used)


def continue_text(
    tokenizer: Any, messages: Sequence[Message], prefix_text: str
) -> tuple[list[int], list[int]]:
    """A conversation whose last assistant turn has begun with prefix_text: (prompt tokens, prefix tokens).

    The prompt is render_prompt(tokenizer, messages) whatever the prefix: prefixes of one question share it.
    """
    return render_prompt(tokenizer, messages), encode_inside(tokenizer, prefix_text)


def encode_inside(tokenizer: Any, text: str, split_special: bool = True) -> list[int]:
    """Tokens of a text that stands inside a longer one.

    No start token and no space is put before it, and "<|im_end|>" spelt out stays text: only a template
    ends a turn.

    Args:
        split_special: false for what a template wrote.
    """
    if not _puts_space_first(tokenizer):
        return _encode(tokenizer, text, split_special_tokens=split_special)
    before = _encode(tokenizer, "\n")
    both = _encode(tokenizer, "\n" + text, split_special_tokens=split_special)
    whole = both[: len(before)] == before
    return both[len(before) :] if whole else _encode(tokenizer, text, split_special_tokens=split_special)


def _puts_space_first(tokenizer: Any) -> bool:
    """SentencePiece tokenizers read "a" as " a" at the start of a text."""
    return _encode(tokenizer, "\na") != _encode(tokenizer, "\n") + _encode(tokenizer, "a")


def _encode(tokenizer: Any, text: str, **options: bool) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, **options))


def shared_length(sequences: Sequence[list[int]]) -> int:
    """Return how many tokens all sequences begin with alike."""
    first, last = min(sequences), max(sequences)  # in order of tokens, these two differ earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
