"""Families of chat templates: what a model reads, where it begins to answer, and what SFT trains last."""

import pytest
from chat_families import FAMILIES, family_tokenizer
from jsonl import write_jsonl

from fastrl.config import DataConfig
from fastrl.data import render_prompt, render_prompt_text
from fastrl.data.conversations import read_conversations
from fastrl.data.prompts import check_opens_turn
from fastrl.data.templates import use_template

SYSTEM, USER = {"role": "system", "content": "S"}, {"role": "user", "content": "7+5?"}
ANSWER = {"role": "assistant", "content": "12"}
NAMES = list(FAMILIES)


def prepared(name):
    family = FAMILIES[name]
    tokenizer = family_tokenizer(family)
    use_template(tokenizer, DataConfig(chat_template_kwargs=family.kwargs))
    return family, tokenizer


def trained(tokenizer, sequence):
    """The text that is trained; what stands after it is read alone."""
    kept = [i for i, weight in enumerate(sequence.loss_mask) if weight]
    assert kept == list(range(kept[0], kept[-1] + 1))
    return tokenizer.decode([sequence.token_ids[i] for i in kept])


@pytest.mark.parametrize("name", NAMES)
def test_prompts(name):
    family, tokenizer = prepared(name)
    assert render_prompt_text(tokenizer, [USER]) == family.prompt
    check_opens_turn(tokenizer, [USER])
    ids = render_prompt(tokenizer, [USER])
    assert ids == list(tokenizer.apply_chat_template([USER], add_generation_prompt=True)["input_ids"])
    assert tokenizer.decode(ids) == family.prompt
    spelled = [{"role": "user", "content": f"7+5?{family.eos}"}]
    assert render_prompt(tokenizer, spelled).count(tokenizer.eos_token_id) == ids.count(
        tokenizer.eos_token_id
    )


@pytest.mark.parametrize("name", NAMES)
def test_system_turns(name):
    family, tokenizer = prepared(name)
    if family.with_system is None:
        with pytest.raises(ValueError, match=r"chat template: .*no system role; leave data.system_prompt"):
            render_prompt_text(tokenizer, [SYSTEM, USER])
    else:
        assert render_prompt_text(tokenizer, [SYSTEM, USER]) == family.with_system
        assert tokenizer.decode(render_prompt(tokenizer, [SYSTEM, USER])) == family.with_system


@pytest.mark.parametrize("name", NAMES)
def test_sft_trains_the_answer_and_the_end_of_its_turn(tmp_path, name):
    family, tokenizer = prepared(name)
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [USER, ANSWER]}])
    if family.answer is None:
        with pytest.raises(ValueError, match=r"line 1: expected a chat template .* data\.chat_template"):
            read_conversations(path, tokenizer)
        return
    (sequence,) = read_conversations(path, tokenizer)
    assert trained(tokenizer, sequence) == family.answer
    assert tokenizer.decode(sequence.token_ids).startswith(family.prompt + family.answer)


def test_several_turns_end_alike(tmp_path):
    turns = [USER, ANSWER, {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": turns}])
    refused = []
    for name in NAMES:
        family, tokenizer = prepared(name)
        try:
            (sequence,) = read_conversations(path, tokenizer)
        except ValueError as error:
            assert "line 1: expected a chat template under which turn" in str(error)
            refused.append(name)
            continue
        assert tokenizer.decode(sequence.token_ids) == tokenizer.apply_chat_template(turns, tokenize=False)
        kept = [i for i, mask in zip(sequence.token_ids, sequence.loss_mask, strict=True) if mask]
        assert tokenizer.decode(kept) == family.answer + family.answer.replace("12", "2")
    # what these write depends on whether a turn is the last one
    assert refused == ["Qwen3", "Qwen3 without thinking", "DeepSeek-R1 distill"]


def test_a_system_turn_that_stands_only_with_the_last_question(tmp_path):
    """Under Mistral's template a system turn is gone once the question is answered."""
    _, tokenizer = prepared("Mistral")
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [SYSTEM, USER, ANSWER]}])
    with pytest.raises(ValueError, match=r"line 1: .*set data\.merge_system"):
        read_conversations(path, tokenizer)
    (sequence,) = read_conversations(path, tokenizer, merge_system=True)
    assert tokenizer.decode(sequence.token_ids) == "<s>[INST] S\n\n7+5?[/INST] 12</s>"


def test_thoughts_are_trained_as_they_are_written(tmp_path):
    """In Qwen3's way: a thought of the last turn stays, and the answer after it."""
    _, tokenizer = prepared("Qwen3")
    said = {"role": "assistant", "content": "<think>\n7 and 5\n</think>\n\n12"}
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": [USER, said]}])
    (sequence,) = read_conversations(path, tokenizer)
    assert trained(tokenizer, sequence) == "<think>\n7 and 5\n</think>\n\n12<|im_end|>"
