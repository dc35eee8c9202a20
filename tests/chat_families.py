"""Chat templates in the manner of published families: same structure and control tokens, words of our own."""
# ruff: noqa: RUF001  (a family writes its control tokens with wide bars)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = r"""
{%- for m in messages %}
    {%- if loop.first and m.role != 'system' %}{{- '<|im_start|>system\nBe of help.<|im_end|>\n' }}{% endif %}
    {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
THINKING = r"""
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set parts = m.content.split('</think>') %}
        {%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}
        {%- set said = parts[-1].lstrip('\n') %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.asked and (loop.last or thought) %}
            {{- '<think>\n' + thought + '\n</think>\n\n' }}
        {%- endif %}
        {{- said + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
HEADERS = r"""
{{- bos_token }}
{%- if date_string is not defined %}{% set date_string = '1 Jan 2020' %}{% endif %}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for m in turns %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
TURNS = r"""
{{- bos_token }}
{%- set before = '' %}
{%- set turns = messages %}
{%- if messages[0].role == 'system' %}SYSTEM{% endif %}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns alternate') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
    {{- (before if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"""
INSTRUCTIONS = r"""
{{- bos_token }}
{%- set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- for m in turns %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns alternate') }}{% endif %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (system if loop.last else '') + m.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + m.content + eos_token }}
    {%- endif %}
{%- endfor %}"""
PHI3 = r"""
{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% else %}{{- eos_token }}{% endif %}"""
PHI4 = r"""
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
OPENS_THOUGHT = r"""
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{- m.content }}
    {%- elif m.role == 'user' %}{{- '<｜User｜>' + m.content }}
    {%- else %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\n' }}{% endif %}"""
REFUSES = "{{ raise_exception('no system role') }}"
INTO_USER = "{% set before = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A template, its tokenizer's control tokens, and what comes out of both."""

    template: str
    special: tuple[str, ...]
    bos: str | None = None
    eos: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Options of the template."""
    prompt: str
    """The text that a model reads for a user's turn "7+5?"."""
    with_system: str | None
    """The same after a system turn "S"; None: the template refuses it."""
    answer: str | None
    """The text that SFT trains for the answer "12"; None: the row is refused."""


CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
GEMMA: dict[str, Any] = {
    "special": ("<start_of_turn>", "<end_of_turn>"), "bos": "<bos>", "eos": "<eos>",
    "prompt": "<bos><start_of_turn>user\n7+5?<end_of_turn>\n<start_of_turn>model\n",
    "answer": "12<end_of_turn>",
}  # fmt: skip
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
FAMILIES = {
    "Qwen2.5": Family(
        template=CHATML, special=CHATML_TOKENS, eos="<|im_end|>", answer="12<|im_end|>",
        prompt="<|im_start|>system\nBe of help.<|im_end|>\n<|im_start|>user\n7+5?<|im_end|>\n"
               "<|im_start|>assistant\n",
        with_system="<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n7+5?<|im_end|>\n"
                    "<|im_start|>assistant\n",
    ),
    "SmolLM2": Family(
        template=CHATML.replace("of help", "small"), special=CHATML_TOKENS, bos="<|im_start|>",
        eos="<|im_end|>", answer="12<|im_end|>",
        prompt="<|im_start|>system\nBe small.<|im_end|>\n<|im_start|>user\n7+5?<|im_end|>\n"
               "<|im_start|>assistant\n",
        with_system="<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n7+5?<|im_end|>\n"
                    "<|im_start|>assistant\n",
    ),
    "Qwen3": Family(
        template=THINKING, special=CHATML_TOKENS, eos="<|im_end|>",
        prompt="<|im_start|>user\n7+5?<|im_end|>\n<|im_start|>assistant\n",
        with_system="<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n7+5?<|im_end|>\n"
                    "<|im_start|>assistant\n",
        answer="<think>\n\n</think>\n\n12<|im_end|>",
    ),
    "Qwen3 without thinking": Family(
        template=THINKING, special=CHATML_TOKENS, eos="<|im_end|>", kwargs={"enable_thinking": False},
        prompt="<|im_start|>user\n7+5?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        with_system="<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n7+5?<|im_end|>\n"
                    "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        answer="12<|im_end|>",
    ),
    "Llama 3": Family(
        template=HEADERS, special=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>", eos="<|eot_id|>", kwargs={"date_string": "2 Feb 2022"},
        prompt="<|begin_of_text|>" + HEADER.format("system", "Today: 2 Feb 2022\n\n<|eot_id|>")
               + HEADER.format("user", "7+5?<|eot_id|>") + HEADER.format("assistant", ""),
        with_system="<|begin_of_text|>" + HEADER.format("system", "Today: 2 Feb 2022\n\nS<|eot_id|>")
                    + HEADER.format("user", "7+5?<|eot_id|>") + HEADER.format("assistant", ""),
        answer="12<|eot_id|>",
    ),
    "Gemma 2": Family(template=TURNS.replace("SYSTEM", REFUSES), with_system=None, **GEMMA),
    "Gemma 3": Family(
        template=TURNS.replace("SYSTEM", INTO_USER),
        with_system="<bos><start_of_turn>user\nS\n\n7+5?<end_of_turn>\n<start_of_turn>model\n", **GEMMA,
    ),
    "Mistral": Family(
        template=INSTRUCTIONS, special=("[INST]", "[/INST]"), bos="<s>", eos="</s>",
        prompt="<s>[INST] 7+5?[/INST]", with_system="<s>[INST] S\n\n7+5?[/INST]", answer=" 12</s>",
    ),
    "Phi-3": Family(
        template=PHI3, special=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), eos="<|endoftext|>",
        prompt="<|user|>\n7+5?<|end|>\n<|assistant|>\n",
        with_system="<|system|>\nS<|end|>\n<|user|>\n7+5?<|end|>\n<|assistant|>\n", answer="12<|end|>",
    ),
    "Phi-4": Family(
        template=PHI4, special=("<|im_start|>", "<|im_sep|>", "<|im_end|>"), eos="<|endoftext|>",
        prompt="<|im_start|>user<|im_sep|>7+5?<|im_end|><|im_start|>assistant<|im_sep|>",
        with_system="<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>7+5?<|im_end|>"
                    "<|im_start|>assistant<|im_sep|>",
        answer="12<|im_end|>",
    ),
    "DeepSeek-R1 distill": Family(
        template=OPENS_THOUGHT, special=("<｜User｜>", "<｜Assistant｜>"), bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        prompt="<｜begin▁of▁sentence｜><｜User｜>7+5?<｜Assistant｜><think>\n",
        with_system="<｜begin▁of▁sentence｜>S<｜User｜>7+5?<｜Assistant｜><think>\n", answer=None,
    ),
}  # fmt: skip


def family_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """The 256 bytes and the family's control tokens. It puts its start token before texts of its own."""
    named = [token for token in (family.bos, family.eos) if token is not None]
    special = list(dict.fromkeys((*named, *family.special)))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if family.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, vocabulary[family.bos])]
        )
    made: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = made(
        tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos, chat_template=family.template
    )
    return fast
