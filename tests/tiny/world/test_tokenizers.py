"""Two tokenizers that encode every text and share almost no tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from fastrl.tiny.world.models import GENERATOR, RECEIVER, initialise
from fastrl.tiny.world.tokenizers import generator_tokenizer, receiver_tokenizer

TRACE = "7+5=2\n2*3=6\n\\boxed{6}"
CHAT = [{"role": "user", "content": "7+5*3"}]
TOKENIZERS = {"generator": generator_tokenizer(), "receiver": receiver_tokenizer()}


def tokens(name, text):
    tokenizer = TOKENIZERS[name]
    return tokenizer.convert_ids_to_tokens(tokenizer.encode(text, add_special_tokens=False))


def test_tokens_by_hand():
    assert tokens("generator", TRACE) == [
        "7",
        "+5",
        "=",
        "2",
        "Ċ",
        "2",
        "*3",
        "=",
        "6",
        "Ċ",
        "\\boxed{",
        "6",
        "}",
    ]
    assert tokens("receiver", TRACE) == [
        "7",
        "+5",
        "=",
        "2",
        "\n",
        "2",
        "*3",
        "=",
        "6",
        "\n",
        "\\boxed{",
        "6",
        "}",
    ]
    assert tokens("generator", "HpFCtDG") == ["H", "pF", "C", "tD", "G"]
    assert tokens("receiver", "HpFC") == ["H", "p", "F", "C"]


def test_a_cut_trace_keeps_its_tokens():
    """Wherever a generator's trace is cut, the receiver reads the tokens it would read without the cut."""
    generator, receiver = TOKENIZERS["generator"], TOKENIZERS["receiver"]
    ids = generator.encode(TRACE)
    whole = receiver.encode(TRACE, add_special_tokens=False)
    for cut in range(len(ids) + 1):
        prefix = receiver.encode(generator.decode(ids[:cut]), add_special_tokens=False)
        assert prefix == whole[: len(prefix)]


def test_prompts_by_hand():
    prompts = {
        name: tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
        for name, tokenizer in TOKENIZERS.items()
    }
    assert prompts == {"generator": "<|user|>7+5*3<|assistant|>", "receiver": "<s>Q:7+5*3\nA:"}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.text(st.characters(blacklist_categories=["Cs"])))
def test_every_text_comes_back(name, text):
    tokenizer = TOKENIZERS[name]
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_token_both_know_has_two_numbers():
    generator, receiver = (tokenizer.get_vocab() for tokenizer in TOKENIZERS.values())
    shared = set(generator) & set(receiver)
    assert {"7", "+5", "\\boxed{"} <= shared
    assert [token for token in shared if generator[token] == receiver[token]] == []


@pytest.mark.parametrize("shape", [GENERATOR, RECEIVER], ids=["generator", "receiver"])
def test_the_folder_loads_as_it_was(shape, tmp_path):
    written = shape.tokenizer()
    read = AutoTokenizer.from_pretrained(initialise(shape, tmp_path / "model", seed=0))
    assert read.get_vocab() == written.get_vocab()
    assert (read.eos_token, read.pad_token, read.bos_token) == (
        written.eos_token,
        written.pad_token,
        written.bos_token,
    )
    for text in (TRACE, "漢字 é 🙂", "a  b\n\n"):
        assert read.encode(text, add_special_tokens=False) == written.encode(text, add_special_tokens=False)
    assert read.apply_chat_template(CHAT, tokenize=False) == written.apply_chat_template(CHAT, tokenize=False)
