"""Trained tokens of a conversation: exact masks by hand under several chat templates."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from fastrl.data.conversations import read_conversations
from fastrl.tiny.world.tokenizers import generator_tokenizer, receiver_tokenizer

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER = {"role": "user", "content": "7+5"}
ASSISTANT = {"role": "assistant", "content": "7+5=2"}


def read(tmp_path, tokenizer, *rows, **options):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return read_conversations(str(file), tokenizer, **options)


def spell(tokenizer, sequence):
    """The sequence with trained tokens in brackets."""
    tokens = tokenizer.convert_ids_to_tokens(list(sequence.token_ids))
    return "".join(f"[{t}]" if m else t for t, m in zip(tokens, sequence.loss_mask, strict=True)).replace(
        "Ċ", "\n"
    )


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"prompt": "7+5", "completion": "7+5=2"},
        {"prompt": [USER], "completion": [ASSISTANT]},
    ],
)
def test_one_turn(tmp_path, row):
    tokenizer = generator_tokenizer()
    (sequence,) = read(tmp_path, tokenizer, row)
    assert spell(tokenizer, sequence) == "<|user|>7+5<|assistant|>[7][+5][=][2][<|end|>]"


def test_every_assistant_turn_of_messages_is_trained_and_only_the_completion_of_a_prompt(tmp_path):
    tokenizer = generator_tokenizer()
    turns = [USER, ASSISTANT, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    whole, last = read(tmp_path, tokenizer, {"messages": turns}, {"prompt": turns[:3], "completion": "2"})
    text = "<|user|>7+5<|assistant|>{}<|user|>1<|assistant|>[2][<|end|>]"
    assert spell(tokenizer, whole) == text.format("[7][+5][=][2][<|end|>]")
    assert spell(tokenizer, last) == text.format("7+5=2<|end|>")


@pytest.mark.parametrize("make", [generator_tokenizer, receiver_tokenizer])
def test_a_prefix_has_its_own_loss_weight_and_a_continued_turn_no_end(tmp_path, make):
    tokenizer = make()
    row = {"prompt": "7+5", "prefix": "7+5=2\n", "completion": "2*3=6", "end": False}
    (sequence,) = read(tmp_path, tokenizer, row, prefix_weight=0.5)
    question = "<|user|>7+5<|assistant|>" if make is generator_tokenizer else "<s>Q:7+5\nA:"
    assert spell(tokenizer, sequence) == question + "[7][+5][=][2][\n][2][*3][=][6]"
    assert sequence.loss_weights == [0.5] * 5 + [1.0] * 4
    (read_only,) = read(tmp_path, tokenizer, {**row, "end": True}, prefix_weight=0.0)
    end = tokenizer.eos_token
    assert spell(tokenizer, read_only) == question + f"7+5=2\n[2][*3][=][6][{end}]"


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "7", "completion": "2", "end": "no"}, "end: expected true or false, got 'no'"),
        ({"prompt": "7", "completion": "2", "prefix": 3}, "prefix: expected text, .* got 3"),
        ({"prompt": [USER, ASSISTANT], "completion": "2", "prefix": "x"}, "prefix: expected text, after"),
    ],
)
def test_a_row_with_a_wrong_continuation_is_refused(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, generator_tokenizer(), row)


def test_a_begun_turn_is_continued(tmp_path):
    tokenizer = receiver_tokenizer()
    begun = [USER, {"role": "assistant", "content": "7+"}]
    (sequence,) = read(tmp_path, tokenizer, {"prompt": begun, "completion": "5=2"})
    assert spell(tokenizer, sequence) == "<s>Q:7+5\nA:7+[5][=][2][</s>]"
    # the cut splits +5: its two halves are tokens of their own, as they are when a receiver reads a prefix
    plus, five = tokenizer.convert_tokens_to_ids(["+", "5"])
    place = list(sequence.token_ids).index(plus)
    assert list(sequence.token_ids)[place : place + 2] == [plus, five]


def test_an_empty_beginning_is_none(tmp_path):
    tokenizer = generator_tokenizer()
    begun = [USER, {"role": "assistant", "content": ""}]
    whole, cut = read(
        tmp_path, tokenizer, {"messages": [USER, ASSISTANT]}, {"prompt": begun, "completion": "7+5=2"}
    )
    assert whole == cut


def test_what_a_template_writes_after_the_end_token_is_not_trained(tmp_path):
    tokenizer = generator_tokenizer()
    tokenizer.chat_template = CHATML
    (sequence,) = read(tmp_path, tokenizer, {"messages": [USER, ASSISTANT]})
    assert spell(tokenizer, sequence) == "<|user|>7+5<|end|>\n<|assistant|>[7][+5][=][2][<|end|>]\n"


def test_a_template_without_end_token_gets_one(tmp_path):
    tokenizer = generator_tokenizer()
    tokenizer.chat_template = CHATML.replace("<|end|>\n", "")
    (sequence,) = read(tmp_path, tokenizer, {"messages": [USER, ASSISTANT]})
    assert spell(tokenizer, sequence) == "<|user|>7+5<|assistant|>[7][+5][=][2][<|end|>]"


def test_a_tokenizer_without_template_reads_the_text_as_it_is(tmp_path):
    tokenizer = generator_tokenizer()
    tokenizer.chat_template = None
    turns = [USER, ASSISTANT, {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    (sequence,) = read(tmp_path, tokenizer, {"messages": turns})
    assert spell(tokenizer, sequence) == "7+5[7][+5][=][2][<|end|>]\n1[2][<|end|>]"


def test_system_prompt_and_limit(tmp_path):
    tokenizer = generator_tokenizer()
    rows = [{"prompt": str(k), "completion": str(k)} for k in range(5)]
    sequences = read(tmp_path, tokenizer, *rows, "", system_prompt="0", limit=2)
    assert [spell(tokenizer, sequence) for sequence in sequences] == [
        f"<|system|>0<|user|>{k}<|assistant|>[{k}][<|end|>]" for k in range(2)
    ]


@pytest.mark.parametrize(
    "row, complaint",
    [
        ("{", "line 2: expected a JSON object"),
        ("[1]", "line 2: expected a JSON object"),
        ({"question": "7+5"}, r"line 2: expected messages, or prompt and completion, got \['question'\]"),
        ({"messages": []}, "line 2, column 'messages': expected a string or a list of messages"),
        (
            {"messages": [{"role": "user"}]},
            "line 2, column 'messages': expected messages with role and content",
        ),
        ({"messages": [USER]}, "line 2, column 'messages': expected an assistant's turn to train on"),
        ({"prompt": "1", "completion": [USER]}, "line 2, column 'completion': expected one assistant's turn"),
        (
            {"prompt": "1", "completion": 2},
            "line 2, column 'completion': expected a string or a list of messages, got 2",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, row, complaint):
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path, generator_tokenizer(), {"messages": [USER, ASSISTANT]}, row)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\[data\] path"):
        read_conversations(str(tmp_path / "none.jsonl"), generator_tokenizer())
    with pytest.raises(ValueError, match="at least one row"):
        read(tmp_path, generator_tokenizer(), "")


def test_a_template_that_rewrites_its_past_is_refused(tmp_path):
    tokenizer = generator_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    with pytest.raises(ValueError, match="expected a chat template under which turn 1 of 2 follows"):
        read(tmp_path, tokenizer, {"messages": [USER, ASSISTANT]})
    tokenizer.chat_template = CHATML.replace("m.content", "m.content | trim")
    begun = [USER, {"role": "assistant", "content": " 7"}]
    with pytest.raises(ValueError, match="changes how the assistant's turn begins"):
        read(tmp_path, tokenizer, {"prompt": begun, "completion": "+5"})


def test_a_configured_system_prompt_takes_the_place_of_the_rows_own(tmp_path):
    tokenizer = generator_tokenizer()
    turns = [{"role": "system", "content": "9"}, USER, ASSISTANT]
    (sequence,) = read(tmp_path, tokenizer, {"messages": turns}, system_prompt="0")
    assert spell(tokenizer, sequence) == "<|system|>0<|user|>7+5<|assistant|>[7][+5][=][2][<|end|>]"


def test_every_kind_of_file_is_read_alike(tmp_path):
    turns = [USER, ASSISTANT]
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps({"messages": turns}), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}]), tmp_path / "a.parquet")
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(turns)]])
    with open(tmp_path / "b.csv", "w", newline="") as file:
        csv.writer(file).writerows([["prompt", "completion", "end"], ["7+5", "7+5=2", "true"]])
    tokenizer = generator_tokenizer()
    first, *others = [read_conversations(str(tmp_path / name), tokenizer) for name in ("a.jsonl", "a.parquet",
                      "a.csv", "b.csv")]  # fmt: skip
    assert spell(tokenizer, first[0]) == "<|user|>7+5<|assistant|>[7][+5][=][2][<|end|>]"
    assert others == [first] * 3


def test_bad_rows_are_skipped_and_counted(tmp_path):
    tokenizer = generator_tokenizer()
    with pytest.warns(UserWarning, match="1 of 2 rows skipped, .* line 1, column 'messages'"):
        (sequence,) = read(tmp_path, tokenizer, {"messages": [USER]}, {"messages": [USER, ASSISTANT]},
                           on_bad_row="skip")  # fmt: skip
    assert sequence.num_loss_tokens == 5
