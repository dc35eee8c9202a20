"""Chat templates are tried before they are used: one that never ends is refused, and none runs code."""

from types import SimpleNamespace

import pytest
from checkpoints import CHAT

from fastrl.check import load_tokenizer, template
from fastrl.config import CheckpointConfig, DataConfig

pytestmark = pytest.mark.process
NEVER = "{% set r = range(99999) | list %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}"
MARKED = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"


def try_out(chat_template) -> None:
    tokens = {"eos_token": "<eos>", "additional_special_tokens": ["<user>"]}
    template.check_template("model", SimpleNamespace(chat_template=chat_template, special_tokens_map=tokens))


@pytest.mark.parametrize(
    "usable",
    [CHAT, None, MARKED, {"default": CHAT}, "{{ raise_exception('no system') }}", "{{ 1 / 0 }}", "{% for"],
)
def test_a_template_that_ends_passes(usable):
    try_out(usable)


@pytest.mark.parametrize(
    "endless", [NEVER, "{{ 'a' * 9999999999 }}", {"default": CHAT, "tools": NEVER + CHAT}]
)
def test_a_template_that_never_ends_is_refused(endless, monkeypatch):
    monkeypatch.setattr(template, "CPU_S", 1)
    with pytest.raises(ValueError, match=r"\[model\] path: expected a chat template that ends within 1 s"):
        try_out(endless)


def test_a_trial_that_fails_is_no_verdict_on_the_template(monkeypatch):
    monkeypatch.setattr(template, "TRIAL", "raise ImportError('no jinja2')")
    with pytest.raises(RuntimeError, match=r"its trial failed: (?s:.*)no jinja2"):
        try_out(CHAT + "another")


def test_a_template_that_data_name_is_tried_before_its_variables_are_read(checkpoints, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr("fastrl.check.template.ends", lambda template, tokens: tried.append(template))
    (tmp_path / "a.jinja").write_text("{{ x }}")
    data = DataConfig(chat_template=str(tmp_path / "a.jinja"), chat_template_kwargs={"y": 1})
    with pytest.raises(ValueError, match="a chat template that ends within"):
        load_tokenizer("model", CheckpointConfig(path=str(checkpoints["llama"])), data)
    assert tried == ["{{ x }}"]
