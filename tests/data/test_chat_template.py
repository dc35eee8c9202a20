"""data.chat_template and data.chat_template_kwargs: the template a tokenizer gets, and its variables."""

import pytest
from checkpoints import CHAT, byte_tokenizer
from transformers import AutoTokenizer

from fastrl.config import CheckpointConfig, DataConfig, ModelConfig, PromptedConfig
from fastrl.data import render_prompt_text
from fastrl.data.templates import template_options, use_template, variables

USER = [{"role": "user", "content": "q"}]
DATED = (
    "{% if date is not defined %}{% set date = 'today' %}{% endif %}{{ date }}:{{ messages[0].content }}"
    "{% if thinks is defined and thinks is false %}!{% endif %}{% if add_generation_prompt %}>{% endif %}"
)


def prompt(template=CHAT, **options):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    use_template(tokenizer, DataConfig(**options))
    return render_prompt_text(tokenizer, USER)


def test_auto_none_a_file_and_another_models(tmp_path):
    assert prompt() == "<user>q<assistant>"
    assert prompt(chat_template="none") == "q"
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}\n>>\n")
    assert prompt(chat_template=str(tmp_path / "own.jinja")) == "q\n>>"
    other = byte_tokenizer()
    other.chat_template = "[{{ messages[0].content }}]"
    other.save_pretrained(tmp_path / "other")
    assert prompt(chat_template=str(tmp_path / "other")) == "[q]"


def test_variables_are_defaults_that_a_caller_may_overrule(tmp_path):
    assert prompt(DATED) == "today:q>"
    assert prompt(DATED, chat_template_kwargs={"thinks": False, "date": "d"}) == "d:q!>"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = f"\n{DATED}"
    options = DataConfig(chat_template_kwargs={"date": 'a"\n{%}\u00e9🙂'})
    use_template(tokenizer, options)
    once = tokenizer.chat_template
    use_template(tokenizer, options)
    assert tokenizer.chat_template == once
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert render_prompt_text(saved, USER) == '\na"\n{%}\u00e9🙂:q>'
    assert saved.apply_chat_template(USER, tokenize=False, date="other") == "\nother:q"


def test_any_value_of_json_reaches_the_template():
    value = {"a": [1, 2.5, None, True, "x'"], "b": {"c": False}}
    assert prompt("{{ value | tojson }}", chat_template_kwargs={"value": value}) == (
        '{"a": [1, 2.5, null, true, "x\'"], "b": {"c": false}}'
    )


@pytest.mark.parametrize(
    ("template", "options", "says"),
    [
        (DATED, {"chat_template_kwargs": {"think": False}},
         r"_kwargs: expected variables that the chat template reads \(date, thinks\), got 'think'"),
        (DATED, {"chat_template_kwargs": {"messages": []}}, "got 'messages'"),
        (DATED, {"chat_template_kwargs": {"eos_token": ""}}, "got 'eos_token'"),
        ("{% set date = 1 %}{{ date }}", {"chat_template_kwargs": {"date": 2}},
         r"reads \(none\), got 'date'"),
        (DATED, {"chat_template": "none", "chat_template_kwargs": {"date": 2}},
         "chat_template_kwargs: expected none without a chat template"),
        (DATED, {"chat_template": "nowhere.jinja"},
         r"chat_template: expected auto, none, a .jinja file or a model folder, got 'nowhere.jinja'"),
    ],
)  # fmt: skip
def test_options_that_are_refused(template, options, says):
    with pytest.raises(ValueError, match=rf"^\[data\] .*{says}"):
        prompt(template, **options)


def test_templates_that_are_none(tmp_path):
    (tmp_path / "a.jinja").write_text("x\n{% if %}")
    with pytest.raises(ValueError, match=r"chat_template: expected a Jinja template, got .* in line 2$"):
        prompt(chat_template=str(tmp_path / "a.jinja"))
    with pytest.raises(ValueError, match=r"chat_template: expected a folder with a tokenizer, got '/"):
        prompt(chat_template=str(tmp_path))
    bare = byte_tokenizer()
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"chat_template: expected a folder whose tokenizer has one"):
        prompt(chat_template=str(tmp_path / "bare"))


def test_an_error_inside_a_template_is_named():
    for template in ("{{ messages[0].content + date }}", "{{ nothing.at.all }}"):
        with pytest.raises(ValueError, match=r"^\[data\] chat template: expected messages that it takes"):
            prompt(template, **({"chat_template_kwargs": {"date": 5}} if "date" in template else {}))


def test_marks_of_transformers_are_no_error():
    template = "{%- generation -%}{{ a }}{% endgeneration %}{% for m in messages %}{% break %}{% endfor %}"
    assert variables(template, "data") == {"a", "messages"}


def test_whose_options_hold():
    data, own = DataConfig(chat_template="none"), PromptedConfig(chat_template="none")
    assert template_options(ModelConfig(), data) is data and template_options(own) is own
    assert template_options(CheckpointConfig()) is None
