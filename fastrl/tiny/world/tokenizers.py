"""Two tokenizers that share no ids: a byte-level one for generators, one with merged tokens for receivers."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MAX_LENGTH = 1024
DIGITS, LETTERS = "0123456789", "ABCDEFGHIJ"
GENERATOR_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
RECEIVER_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ 'A:' + message['content'] + '</s>' }}{% else %}"
    "{{ 'Q:' + message['content'] + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
)


def generator_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with one token for operation and operand (+5, pF), and for \\boxed{."""
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged, merges = grow(["\\boxed{", *pairs("+-*", DIGITS), *pairs("pmt", LETTERS)])
    model = models.BPE(vocab=number([*special, *alphabet, *merged]), merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return wrap(tokenizer, GENERATOR_TEMPLATE, pad_token="<|pad|>", eos_token="<|end|>")


def receiver_tokenizer() -> PreTrainedTokenizerFast:
    """Return a character-level tokenizer with one token for operation and operand (+5), and byte fallback.

    Private shorthand is split differently than by the generator's tokenizer. Explicit traces are split
    equally, with other ids, so that the text after any cut is tokenized as in training.
    """
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    characters = [chr(code) for code in (*range(126, 31, -1), 10)]
    merged, merges = grow(["\\boxed{", *pairs("*-+", DIGITS[::-1]), "Q:", "A:"])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    model = models.BPE(
        vocab=number([*special, *merged, *bytes_, *characters]),
        merges=merges,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=False,
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return wrap(
        tokenizer, RECEIVER_TEMPLATE, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def pairs(first: str, second: str) -> list[str]:
    return [left + right for left in first for right in second]


def grow(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return tokens and merges that build each word from the left: \\b, \\bo, \\box ..."""
    merges = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    return [left + right for left, right in merges], merges


def number(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def wrap(tokenizer: Tokenizer, template: str, **special: str) -> PreTrainedTokenizerFast:
    fast: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = fast(
        tokenizer_object=tokenizer,
        chat_template=template,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        **special,
    )
    return made
