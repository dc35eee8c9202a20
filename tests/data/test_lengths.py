"""Prompt lengths: every rendered prompt is measured in tokens; lengths are cached by content."""

import json

import pytest

from fastrl.check.model import longest_prompt
from fastrl.data import Problem, render_prompt
from fastrl.data import lengths as lengths_file
from fastrl.data.lengths import content_key, keep_lengths, prompt_lengths, read_lengths
from fastrl.tiny.world.tokenizers import generator_tokenizer, receiver_tokenizer


def problem(index, text):
    return Problem(index=index, messages=[{"role": "user", "content": text}], solution="1")


def test_a_dense_prompt_among_longer_ones_is_the_longest():
    """Of 70 prompts with more characters than the dense one, which has the most tokens."""
    tokenizer = generator_tokenizer()
    texts = [*["+1" * 20] * 70, "1 2 3 4 5 6 7 8 9 = " * 1 + "7 5 3 " * 3]
    problems = [problem(i, text) for i, text in enumerate(texts)]
    tokens = [len(render_prompt(tokenizer, each.messages)) for each in problems]
    assert len(texts[70]) < len(texts[0]) and tokens[70] > tokens[0]
    found, length = longest_prompt(tokenizer, problems)
    assert (found.index, length) == (70, tokens[70])


@pytest.mark.parametrize("make", [generator_tokenizer, receiver_tokenizer])
@pytest.mark.parametrize("template", [True, False])
def test_lengths_are_those_of_rendered_prompts(make, template):
    tokenizer = make()
    if not template:
        tokenizer.chat_template = None
    problems = [problem(i, "7+5*" * i + "3") for i in range(5)]
    assert prompt_lengths(tokenizer, problems) == [
        len(render_prompt(tokenizer, p.messages)) for p in problems
    ]


def test_lengths_are_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRL_CACHE", str(tmp_path))
    monkeypatch.setattr(lengths_file, "MIN_CACHED", 2)
    tokenizer, problems = generator_tokenizer(), [problem(0, "7"), problem(1, "7+5")]
    first = prompt_lengths(tokenizer, problems)
    (file,) = (tmp_path / "lengths").iterdir()
    file.write_text(json.dumps([100, 200]))
    assert prompt_lengths(tokenizer, problems) == [100, 200]  # read, not measured
    assert prompt_lengths(tokenizer, problems[::-1]) == first[::-1]  # other content
    file.write_text("[1")
    assert prompt_lengths(tokenizer, problems) == first  # a broken file is measured anew
    key = content_key(tokenizer, problems)
    tokenizer.chat_template += " "
    assert content_key(tokenizer, problems) != key


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="lengths of prompts can't be kept"):
        keep_lengths(tmp_path / "file" / "x.json", [1])
    assert read_lengths(tmp_path / "file" / "x.json", 1) is None
