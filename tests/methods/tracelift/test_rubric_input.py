"""The reward model's input: its blocks letter by letter, and what is cut if it is too long."""

from __future__ import annotations

import pytest
from checkpoints import byte_tokenizer

from fastrl.methods.tracelift.rubric_input import Rubric, encode_traces

TOKENIZER = byte_tokenizer()
MATH = (
    "<task>math</task>\n<type>worked steps</type>\n<problem>\n{}\n</problem>\n<reasoning>\n{}\n</reasoning>"
)
CODE = (
    "<task>code</task>\n<type>plan of a program</type>\n<problem>\n{}\n</problem>\n<tests>\n{}\n</tests>\n"
    "<reasoning>\n{}\n</reasoning>"
)
FRAME = len(MATH.format("", ""))


def read(problems, traces, tests=None, task="math", max_tokens=1000):
    return encode_traces(TOKENIZER, Rubric(task, max_tokens), problems, traces, tests)


def test_the_blocks():
    out = read(["What is 2+2?\n", "x"], [" 2+2 = 4", ""])
    assert [TOKENIZER.decode(each.token_ids) for each in out] == [
        MATH.format("What is 2+2?", "2+2 = 4"),
        MATH.format("x", ""),
    ]
    assert [each.num_cut for each in out] == [0, 0]
    with_tests, without = read(["p", "q"], ["a", "b"], ["in 1\nout 2", None], task="code")
    assert TOKENIZER.decode(with_tests.token_ids) == CODE.format("p", "in 1\nout 2", "a")
    assert "<tests>" not in TOKENIZER.decode(without.token_ids)


def test_special_tokens_in_a_trace_stay_letters():
    (out,) = read(["x"], ["<eos><user>"])
    assert TOKENIZER.decode(out.token_ids) == MATH.format("x", "<eos><user>")
    assert TOKENIZER.eos_token_id not in out.token_ids


@pytest.mark.parametrize(
    ("room", "problem", "trace", "cut"),
    [
        (9, "abcd", "vwxyz", 0),
        (8, "bcd", "vwxyz", 1),
        (5, "", "vwxyz", 4),
        (4, "", "wxyz", 5),
        (0, "", "", 9),
    ],
)
def test_the_problem_loses_its_beginning_first(room, problem, trace, cut):
    (out,) = read(["abcd"], ["vwxyz"], max_tokens=FRAME + room)
    assert TOKENIZER.decode(out.token_ids) == MATH.format(problem, trace)
    assert (len(out.token_ids), out.num_cut) == (FRAME + room, cut)


def test_then_the_tests():
    frame = len(CODE.format("", "", ""))
    (out,) = read(["abc"], ["xyz"], ["123"], task="code", max_tokens=frame + 5)
    assert TOKENIZER.decode(out.token_ids) == CODE.format("", "23", "xyz")


def test_only_the_blocks_have_to_fit():
    with pytest.raises(ValueError, match=rf"\[rubric\] max_tokens: expected >= {FRAME}, .* got {FRAME - 1}"):
        read(["a"], ["b"], max_tokens=FRAME - 1)


def test_numbers_of_texts_agree():
    with pytest.raises(ValueError, match=r"\[rubric\] traces: .* 2 problems, 1 traces, 2 tests"):
        read(["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"1 problems, 1 traces, 2 tests"):
        read(["a"], ["c"], ["d", None])
