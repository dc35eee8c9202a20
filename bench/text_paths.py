"""The paths that model text takes, each as a function of one text, and pieces of hostile text."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fastrl.data.prompts import render_prompt
from fastrl.data.thinking import without_thoughts
from fastrl.engine.tree.stopping import StopRule, Vocabulary
from fastrl.grading import answer_start, exact_verdict, find_answer, normalize_answer
from fastrl.grading.evaluated import is_evaluated
from fastrl.grading.levels import LEVELS
from fastrl.grading.programs.runner import extract_program
from fastrl.grading.programs.values import from_line
from fastrl.methods.interventions.leak import leaks
from fastrl.methods.interventions.parse import CLOSE, OPEN, parse_intervention
from fastrl.methods.interventions.segment import segment
from fastrl.methods.tracelift.groups.drafts import UnusableError
from fastrl.methods.tracelift.groups.judge import read_judgment
from fastrl.methods.tracelift.groups.rationale import parse_rationale
from fastrl.methods.tracelift.groups.written import read_flawed
from fastrl.methods.tracelift.verifiers import in_words
from fastrl.methods.weak.corruption import corrupt_number
from fastrl.methods.weak.judge import ALIGNMENT, why_unreadable
from fastrl.report.page.write import assemble
from fastrl.report.text import fitted, printable
from fastrl.rewards.cuts import Cutter
from fastrl.rewards.format import FormatReward
from fastrl.rewards.traces import holds_program, states_answer, trace_of
from fastrl.types import SamplingParams

PIECES = (
    "\\boxed{", "\\boxed {7}", "\\fbox{", "}", "{", "{}", "(", ")", "[", "]", "\\{", "\\left(", "#### ",
    "answer: ",
    "The answer is ", "final answer", "Answer:\n", "result:", "<answer>", "</answer>", "<think>", "</think>",
    "<reasoning>", "</reasoning>", OPEN, CLOSE, '{"content": ', '"location": 1', '{"a":', "[[", '"', "'",
    "\\",
    "\\u", "\\ud800", "\ud800", "\udfff", "NaN", "1e999", "-", "```", "```python\n", "~~~", "\n", "\n\n",
    " ", "\t",
    "\r", "\0", "\x1b[31m", "\u202e", "\u200b", "\ufeff", "\U0001f642", "e\u0301", "9", "9" * 5000, "1,000",
    "0.",
    "1/", "<<1+1=2>>2", "<<", ">>", "=", "+", "x = ", "def f(", "):", "print(", "input(", "import ",
    "for x in ",
    "class ", "\\[", "\\]", "$", "$$", "\\(", "\\begin{a}", "\\end{a}", "\\frac{", "^{", "\\sqrt{",
    "\\text{", ",",
    ";", " or ", "\\pm", "|", "||1||", "||", "<|im_end|>", "<eos>", "<assistant>", "</s>", "<script>", "-->",
    "{{data}}", "]]>", "&lt;", "\\u003c", '{"int": "0x', '{"dict": [', '["returned", ', "a", "A. ", "Z", ".",
    ". A",
    "?", "!", "*", "**", "_", "%", "\\%", "\\$",
)  # fmt: skip
GOLDS = ("12", "\\frac{1}{2}", "(1, 2)", "x = 2", "A")
CHAT = "{% for m in messages %}<assistant>{{ m['content'] | trim }}<eos>{% endfor %}"


def byte_tokenizer() -> Any:
    """Return a tokenizer with three special tokens and a token per byte."""
    letters = ["<pad>", "<eos>", "<assistant>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={letter: k for k, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<assistant>"]})
    made.chat_template = CHAT
    return made


TOKENIZER = byte_tokenizer()
CUTTER = Cutter(TOKENIZER, TOKENIZER, strip_answer=True)
STOP = StopRule(
    Vocabulary(TOKENIZER, len(TOKENIZER)), [1], SamplingParams(stop=("\n\n", "</s>", "\\end{a}", "A"))
)
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_IDS = {
    byte: TOKENIZER.convert_tokens_to_ids(chr(letter))
    for byte, letter in [
        *zip(_PRINTED, _PRINTED, strict=True),
        *((b, 256 + k) for k, b in enumerate(_OTHERS)),
    ]
}


def sampled(text: str) -> list[int]:
    """Return the text's bytes as tokens; like a model's samples, they may be invalid UTF-8."""
    return [BYTE_IDS[byte] for byte in text.encode("utf-8", "surrogatepass")]


def decoded(text: str) -> str:
    """Return the text as a decoder returns it, without halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode()


def judge_reply(text: str) -> None:
    why_unreadable(text, ALIGNMENT)
    with suppress(UnusableError):
        read_judgment(text, "math")


def worked_solution(text: str) -> None:
    with suppress(UnusableError):
        parse_rationale(text)
    with suppress(UnusableError):
        read_flawed(f"<reasoning>{text}</reasoning>", "arithmetic", "so 1 + 1 = 2, and 2 apples " * 8)


def answer(text: str) -> None:
    for extraction in ("boxed", "phrase", "last_number"):
        for level in LEVELS:
            found = find_answer(text, extraction, level)  # type: ignore[arg-type]
    answer_start(text)
    FormatReward()(["q"], [text])
    gold = GOLDS[len(text) % len(GOLDS)]
    in_words(text, gold)
    for stated in {text, "" if found is None else found.text}:
        exact_verdict(stated, gold)
        is_evaluated(normalize_answer(stated), gold)


def trace(text: str) -> None:
    trace_of(text, "reasoning")
    holds_program(text)
    without_thoughts(text, ("<think>", "</think>"))
    corrupt_number(text, random.Random(0))
    gold = GOLDS[len(text) % len(GOLDS)]
    states_answer(text, gold)
    leaks(text, gold)


def cut_index(text: str) -> None:
    token_ids = sampled(text)
    for cut in CUTTER.cut(token_ids, [0.01, 0.3, 0.9, 1.0]):
        assert cut.position <= len(token_ids)


def stop_string(text: str) -> None:
    """Apply the stop rule to 500 tokens at once; it decodes at each that may end a stop string."""
    tokens = np.array([sampled(text)[:500]], dtype=np.int32)
    if tokens.size:
        STOP.first_stop(tokens.astype(np.int64), tokens, np.array([0]), np.array([0]))


def steps(text: str) -> None:
    if text.strip():
        found = segment(text)
        found.numbered()
        found.spaced(text)


def report(text: str) -> None:
    """Build the report page; no text of a row may end the script element that holds it."""
    page = assemble({"title": text, "rows": [{"text": text, text: float("nan")}]})
    assert page.isascii() and page.count("</script") == page.count("<script")
    fitted(printable(text), 80)


def function_answer(text: str) -> None:
    with suppress(ValueError):
        from_line(text.encode("utf-8", "surrogatepass"))


PATHS: dict[str, Callable[[str], object]] = {
    "prompt": lambda text: render_prompt(TOKENIZER, [{"role": "user", "content": decoded(text)}]),
    "judge's reply": judge_reply,
    "intervention": lambda text: parse_intervention(text, 3),
    "worked solution": worked_solution,
    "program": extract_program,
    "function's answer": function_answer,
    "answer": answer,
    "trace": trace,
    "cut index": cut_index,
    "substeps": steps,
    "stop strings": stop_string,
    "report": report,
}
