"""Removal of thoughts from conversations: results by hand, and counts of rows without thoughts."""

import json

import pytest

from fastrl.check import check_config
from fastrl.config import DataConfig, ModelConfig, RunConfig, SftConfig
from fastrl.data.conversations import read_conversations
from fastrl.data.thinking import without_thoughts
from fastrl.tiny.world.tokenizers import generator_tokenizer

TAGS = ("<think>", "</think>")


@pytest.mark.parametrize(
    "text, left",
    [
        ("<think>7+5=2</think>\n\nIt is 2.", "It is 2."),
        ("<think>\na\nb\n</think>2", "2"),
        ("1 <think>a</think> 2 <think>b</think>3", "1 2 3"),
        ("<think></think>\n2", "2"),
        ("It is 2.", None),
        ("<think>never closed", None),
        ("closed</think> only", None),
        ("<think>a <think>b</think> c</think> d", None),
        ("<think>a</think> b </think>", None),
        ("<think>all of it</think>", ""),
    ],
)
def test_thoughts_are_removed(text, left):
    assert without_thoughts(text, TAGS) == left


def test_other_tags_and_none_of_their_letters_mean_anything():
    assert without_thoughts("[(a)] b", ("[(", ")]")) == "b"
    assert without_thoughts("<think>a</think>b", ("[(", ")]")) is None


def write(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def assistant(text):
    return {"role": "assistant", "content": text}


USER = {"role": "user", "content": "7+5"}


def test_both_forms_of_the_same_rows(tmp_path):
    tokenizer = generator_tokenizer()
    path = write(
        tmp_path,
        {"prompt": "7+5", "completion": "<think>7+5=2\n</think>\n2"},
        {"messages": [USER, assistant("<think>7</think>1"), USER, assistant("<think>5</think>2")]},
        # a turn that is only read may have no thoughts
        {"prompt": [USER, assistant("1"), USER], "completion": "<think>5</think>2"},
    )
    plain = write_plain = tmp_path / "plain.jsonl"
    write_plain.write_text(
        "".join(
            json.dumps(row) + "\n"
            for row in (
                {"prompt": "7+5", "completion": "2"},
                {"messages": [USER, assistant("1"), USER, assistant("2")]},
                {"prompt": [USER, assistant("1"), USER], "completion": "2"},
            )
        )
    )
    dropped = read_conversations(path, tokenizer, thinking_tags=TAGS)
    assert dropped == read_conversations(str(plain), tokenizer)
    as_is = read_conversations(path, tokenizer)
    assert all(len(a.token_ids) > len(b.token_ids) for a, b in zip(as_is, dropped, strict=True))


def test_rows_without_thoughts_are_counted_before_a_model_is_loaded(tmp_path, checkpoints):
    path = write(
        tmp_path,
        {"prompt": "7+5", "completion": "<think>a</think>2"},
        {"prompt": "7+5", "completion": "2"},
        {"messages": [USER, assistant("<think>a</think>1"), USER, assistant("2")]},
        {"prompt": "7+5", "completion": "<think>nothing else</think> "},
        {"prompt": "7+5", "prefix": "<think>a", "completion": "b</think>2"},
    )
    config = SftConfig(
        run=RunConfig(dir=str(tmp_path / "run"), device="cpu"),
        model=ModelConfig(path=str(checkpoints["llama"])),
        data=DataConfig(path=path),
    )
    check_config(config)
    drop = SftConfig(run=config.run, model=config.model, data=config.data, thinking="drop")
    with pytest.raises(ValueError, match=r"line 2: expected <think>...</think> .* got 4 of 5 rows without"):
        check_config(drop)


@pytest.mark.parametrize("tags", [("<a>",), ("<a>", "<a>"), ("", "<a>"), ("<a>", "<b>", "<c>")])
def test_tags_are_two(tags):
    with pytest.raises(ValueError, match=r"\[sft\] thinking_tags: expected two different texts"):
        SftConfig(thinking_tags=tags)


def test_thoughts_without_an_end_are_read_at_once():
    """Milliseconds; what is quadratic takes minutes."""
    assert without_thoughts("<think>" * 100_000, TAGS) is None
    assert without_thoughts("<think>7</think> " * 20_000 + "2", TAGS) == "2"
