"""Rendered prompts: with a chat template, without one, and with a started assistant turn."""

import pytest
from checkpoints import byte_tokenizer

from fastrl.data import continue_text, render_prompt, render_prompt_text

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1?"}]


@pytest.fixture(scope="module")
def chat():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def plain():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def test_chat_template_with_the_assistants_turn_opened(chat):
    assert render_prompt_text(chat, MESSAGES) == "be brief<user>1+1?<assistant>"
    token_ids = render_prompt(chat, MESSAGES)
    assert chat.decode(token_ids) == "be brief<user>1+1?<assistant>"
    assert token_ids == list(chat.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"])


def test_without_a_template_the_text_stays_as_it_is(plain):
    assert render_prompt_text(plain, MESSAGES) == "be brief\n1+1?"
    assert plain.decode(render_prompt(plain, MESSAGES)) == "be brief\n1+1?"
    turns = [*MESSAGES, {"role": "assistant", "content": " 2"}, {"role": "user", "content": "\n2+2?"}]
    assert render_prompt_text(plain, turns) == "be brief\n1+1? 2\n\n2+2?"


def test_without_a_template_the_start_token_stays_and_the_end_token_goes(plain):
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A <eos>", special_tokens=[("<pad>", 0), ("<eos>", 1)]
    )
    assert render_prompt(tokenizer, MESSAGES) == [0, *render_prompt(plain, MESSAGES)]


@pytest.mark.parametrize("prefix", ["", "two", "\n\n two\n", "so 界🙂", "<user>", "<eos>1"])
def test_continue_text(chat, plain, prefix):
    for tokenizer in (chat, plain):
        prompt_ids, prefix_ids = continue_text(tokenizer, MESSAGES, prefix)
        assert prompt_ids == render_prompt(tokenizer, MESSAGES)
        assert tokenizer.decode(prefix_ids) == prefix
        assert min(prefix_ids, default=99) > 3  # below are the special tokens
