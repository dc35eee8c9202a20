"""Chat templates of several model families: named refusals, and each template's own end of a turn."""

import json

import pytest
from transformers import AddedToken

from fastrl.config import DataConfig
from fastrl.data import load_problems, render_prompt_text
from fastrl.data.conversations import read_conversations
from fastrl.data.lengths import prompt_lengths
from fastrl.tiny.world.tokenizers import generator_tokenizer

NO_SYSTEM = (  # another end than the tokenizer's, no system role, turns that take turns: as Gemma's
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles alternate') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<eot>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EOS_LAST = NO_SYSTEM + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"  # as Phi's
USER, ASSISTANT = {"role": "user", "content": "7+5"}, {"role": "assistant", "content": "2"}


def tokenizer_with(template):
    tokenizer = generator_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<eot>", special=True)]})
    tokenizer.chat_template = template
    return tokenizer


def write(tmp_path, *rows):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("template", [NO_SYSTEM, EOS_LAST])
def test_sft_ends_a_turn_as_the_template_does(tmp_path, template):
    tokenizer = tokenizer_with(template)
    (sequence,) = read_conversations(write(tmp_path, {"messages": [USER, ASSISTANT]}), tokenizer)
    trained = [i for i, kept in zip(sequence.token_ids, sequence.loss_mask, strict=True) if kept]
    assert tokenizer.convert_ids_to_tokens(trained) == ["2", "<eot>"]
    row = {"prompt": "7+5", "completion": "2", "end": False}
    (sequence,) = read_conversations(write(tmp_path, row), tokenizer)
    assert tokenizer.convert_ids_to_tokens(sequence.token_ids[-1:]) == ["2"]


def test_a_refused_system_role_is_named_with_its_row_or_merged(tmp_path):
    tokenizer = tokenizer_with(NO_SYSTEM)
    path = write(tmp_path, {"prompt": "7", "answer": 1}, {"prompt": "5", "answer": 1})
    problems = load_problems(DataConfig(path=path, system_prompt="3"))
    with pytest.raises(
        ValueError, match=r"^\[data\] .* no system role; leave data.system_prompt .*\(row 1\)$"
    ):
        prompt_lengths(tokenizer, problems)
    merged = load_problems(DataConfig(path=path, system_prompt="3", merge_system=True))
    assert [problem.question for problem in merged] == ["7", "5"]
    assert render_prompt_text(tokenizer, merged[0].messages) == "<|user|>3\n\n7<eot>\n<|assistant|>"


def test_sft_names_the_row_that_a_template_refuses(tmp_path):
    tokenizer = tokenizer_with(NO_SYSTEM)
    path = write(tmp_path, {"messages": [USER, ASSISTANT]}, {"messages": [USER, USER, ASSISTANT]})
    with pytest.raises(ValueError, match=r"line 2: \[data\] chat template: .*roles alternate$"):
        read_conversations(path, tokenizer)
    path = write(tmp_path, {"messages": [USER, ASSISTANT]})
    with pytest.raises(ValueError, match=r"line 1: .*no system role; leave data.system_prompt"):
        read_conversations(path, tokenizer, system_prompt="3")
    (merged,) = read_conversations(path, tokenizer, system_prompt="3", merge_system=True)
    assert tokenizer.decode(merged.token_ids) == "<|user|>3\n\n7+5<eot>\n<|assistant|>2<eot>\n"


def test_a_template_that_never_opens_the_turn_is_noticed(tmp_path):
    tokenizer = tokenizer_with("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}")
    problems = load_problems(DataConfig(path=write(tmp_path, {"prompt": "7", "answer": 1})))
    with pytest.raises(ValueError, match="expected one that opens the assistant's turn"):
        prompt_lengths(tokenizer, problems)
    with pytest.raises(ValueError, match="expected one that opens the assistant's turn"):
        read_conversations(write(tmp_path, {"messages": [USER, ASSISTANT]}), tokenizer)


def test_a_template_whose_answers_need_no_opening_is_taken(tmp_path):
    """As Mistral's: what closes the user's turn opens the assistant's."""
    tokenizer = tokenizer_with(
        "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|assistant|>"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    problems = load_problems(DataConfig(path=write(tmp_path, {"prompt": "7", "answer": 1})))
    assert prompt_lengths(tokenizer, problems) == [3]
    (sequence,) = read_conversations(write(tmp_path, {"messages": [USER, ASSISTANT]}), tokenizer)
    assert tokenizer.decode(sequence.token_ids) == "<|user|>7+5<|assistant|>2<|end|>"
