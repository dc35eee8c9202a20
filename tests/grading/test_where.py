"""The position of an answer: after thoughts, in boxes of every spelling, after phrases."""

import gc
import time

import pytest

from fastrl.grading import answer_start, extract_answer, find_answer
from fastrl.grading.boxes import box_contents, find_boxes
from fastrl.grading.where import gold_answer

FENCE = "```"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} no, \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{ }", None),
        (r"\boxed 7.", "7"),
        (r"$\boxed7$", "7"),
        (r"\boxed {12}", "12"),
        ("\\boxed\n{12}", "12"),
        (r"\fbox{12}", "12"),
        (r"\framebox{12}", "12"),
        (r"\bbox[5px,border:2px solid]{12}", "12"),
        (r"\\boxed{12}", "12"),
        ("\x08oxed{12}", "12"),
        ("$boxed{12}$", "12"),
        (r"\boxed{12} is written with \boxed.", "12"),
        (r"\boxed{} so the answer is 12.", "12"),
    ],
)
def test_boxes(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, \boxed{2}", "1, 2"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\[\boxed{1}\] or \[\boxed{2}\]", "1, 2"),
        (r"$x = \boxed{1}$ and $y = \boxed{2}$", "x = 1, y = 2"),
        (r"\boxed{1}. Then \boxed{2}", "2"),
        (r"\boxed{1}, which is odd, so \boxed{2}", "2"),
        (r"\boxed{2}, \boxed{2}", "2"),
        (r"\boxed{1}\quad\boxed{2}\text{ and }\boxed{3}", "1, 2, 3"),
    ],
)
def test_boxes_that_are_one_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        (r"\boxed{7} and then \boxed{8", None, "7"),
        (r"\boxed{8", None, None),
        (r"\boxed{8 and \boxed{9}", "9", "9"),
        (r"<think>\boxed{5}</think> So \boxed{6}", "6", "6"),
        (r"<think>\boxed{5}</think> The answer is 6.", "6", "6"),
        (r"thought \boxed{5}</think>The answer is 6.", "6", "6"),
        (r"<think>\boxed{5}</think> Done.", None, "5"),
        (r"<think>\boxed{5} or perhaps", None, "5"),
        (r"<think>a</think>\boxed{1}<think>b \boxed{2}", None, "2"),
        (r"<thinking>\boxed{5}</thinking><answer>6</answer>", "6", "6"),
        (r"<|begin_of_thought|>\boxed{5}<|end_of_thought|> \boxed{6}", "6", "6"),
        (r"◁think▷\boxed{5}◁/think▷ \boxed{6}", "6", "6"),
    ],
)
def test_thoughts_and_what_is_broken_off(text, strict, lenient):
    assert extract_answer(text) == strict
    assert extract_answer(text, level="lenient") == lenient


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42. I hope it is right.", "42"),
        ("The answer is 4.25.", "4.25"),
        ("Final answer: $x^2$ (proved above)", "x^2"),
        (r"Final answer is \(y+1\)", "y+1"),
        ("**Answer:** 12\nthanks", "12"),
        ("__Answer__: 12", "12"),
        ("answer is 1\nthe answer is 2", "2"),
        ("6 + 6 = 12\n#### 12", "12"),
        ("6 + 6 = 12\n####12", "12"),
        ("6 + 6 = 12\n####: 12 apples.", "12 apples"),
        ("The answer is: \\[\n\\frac{2}{5}\n\\]", r"\frac{2}{5}"),
        ("The answer is\n$$\n\\frac{2}{5}.\n$$", r"\frac{2}{5}"),
        ("The answer is $2$ and $7$.", "2, 7"),
        (r"The answers are \(2\), \(5\), and \(7\).", "2, 5, 7"),
        ("The answer is $30. He had $75 before.", "$30"),
        ("The answer is 30, which is what he has.", "30"),
        ("The answer is 30 because he paid.", "30"),
        ("The answer is 30 and not 40.", "30"),
        ("The answer is 3, 4 and 5.", "3, 4 and 5"),
        (f"Answer:\n{FENCE}text\n12\n{FENCE}", "12"),
        ("### Answer\n12", "12"),
        ("**Final Answer**\n\n12", "12"),
        ("#### Final Answer\n\n$12$", "12"),
        ("Final answer:\n\n\\[ \\text{Answer: } 7 \\]", "7"),
        ("Answer: 07\\]", "07"),
        ("The answer is 3}.", "3"),
        ("<answer>12</answer>", "12"),
        ("<answer>The answer is 12.</answer>", "12"),
        (r"<answer>\boxed{12}</answer> as \boxed{3}", "12"),
        ("The correct option is (C).", "(C)"),
        ("The answer is 12. The answer is correct.", "12"),
        ("The answer is no.", "no"),
        ("答案是\uff1a12。", "12"),
        ("答案为 $12$。", "12"),
        ("答えは 12 です。", "12"),
        ("La réponse est $12$.", "12"),
        ("La respuesta es 12.", "12"),
        ("Die Antwort lautet 12.", "12"),
        ("Ответ: 12.", "12"),
        ("الإجابة: 12", "12"),
        ("उत्तर: 12", "12"),
        ("A resposta é 12.", "12"),
        ("it is 12", None),
        ("", None),
    ],
)
def test_phrases(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "#### Step 1\nAdd.",
        "#### 1. Add\nSo",
        "#### Check\nIt holds.",
        "#### 2 cases\nFirst",
        "####",
        "#### Step 1",
    ],
)
def test_headings_state_nothing(text):
    assert extract_answer(text) is None
    assert answer_start(text) is None


def test_a_label_below_the_last_box_goes_before_it():
    assert extract_answer("\\boxed{x > 3} holds.\n\nAnswer: B") == "B"
    assert extract_answer("\\boxed{4}\n\nAnswer: see the box") == "4"
    assert extract_answer("\\boxed{4} is the answer, not the answer is 5") == "4"


@pytest.mark.parametrize(
    ("extraction", "answers"),
    [
        ("boxed", ["1", None, None, None]),
        ("phrase", ["1", "2", None, None]),
        ("last_number", ["1", "2", "3", None]),
        ("whole_response", [r"so \boxed{1}", "the answer is 2", "it is 3", "none"]),
    ],
)
def test_extractions(extraction, answers):
    texts = [r"so \boxed{1}", "the answer is 2", "it is 3", "none"]
    assert [extract_answer(text, extraction) for text in texts] == answers


@pytest.mark.parametrize("level", ["strict", "lenient"])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<think>\boxed{1}? no</think> so \boxed{2}", "2"),
        (r"so 2 it is</think>\boxed{2}", "2"),  # the prompt has opened the thought
        (r"<think></think>\boxed{2}", "2"),
        (r"so \boxed{2}", None),  # no thought
        (r"<think>so \boxed{2}", None),  # it has no end
        (r"<think>so \boxed{2}</think>", None),  # no box behind it
        (r"<think>2</think> The answer is 2", None),
        (r"<think>2</think> \boxed{2} <think> or 3", None),
    ],
)
def test_a_box_behind_a_thought_that_ends(text, answer, level):
    assert extract_answer(text, "boxed_after_thought", level) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [("3 apples and 1,234.5 pears", "1,234.5"), ("x2 is 7/8", "7/8"), ("-3", "-3"), ("v1.2.3", None)],
)
def test_last_numbers(text, answer):
    assert extract_answer(text, "last_number") == answer


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("7", "7"),
        (r"so $\boxed 7$", "7"),
        (r"so \fbox{8}.", "8"),
        (" 1/2 ", "1/2"),
        (r"\boxed{1}, \boxed{2}", "1, 2"),
    ],
)
def test_gold_answers(gold, answer):
    assert gold_answer(gold) == answer


def test_boxes_are_where_they_say():
    text = r"a \boxed{1{2}3} b \boxed{} c \boxed{x"
    boxes, unfinished = find_boxes(text)
    assert [(box.start, text[box.inside : box.end], box.stop) for box in boxes] == [(2, "1{2}3", 15)]
    assert unfinished == text.rindex("\\boxed")
    assert box_contents(text) == ["1{2}3"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (r"ab \boxed{1}", 3),
        (r"ab \boxed{1", 3),
        ("think</think>", 5),
        ("so FINAL ANSWER", 3),
        ("the answer is 5", 4),
        ("n\n#### 3", 2),
        ("#### Step 1: add\n3\n#### Step 2\nso \\boxed{3}", 34),
        ("a <answer>3</answer>", 2),
        ("答案是 3", 0),
        ("answering isn't", None),
        ("box", None),
    ],
)
def test_where_an_answer_begins(text, place):
    assert answer_start(text) == place


@pytest.mark.parametrize(
    "text",
    [r"\boxed{1}", r"\fbox 1", "the answer is 1", "Answer: 1", "**Answer**: 1", "answer = 1", "x\n#### 1",
     "### Answer\n1", "Final answer is $1$", "<answer>1</answer>", "Ответ: 1"],
)  # fmt: skip
def test_every_answer_that_is_found_begins_where_it_is_said_to(text):
    found = find_answer(text)
    assert found.text == "1"
    assert answer_start(text) <= found.start < text.index("1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [r"\boxed{", r"\boxed", r"\boxed{1}", "{", "}", "\\", "#### ", "####", "answer: ", "answer is 1. ", "$",
     "$$",
     "\\[", "```", "<think>", "</think>", "<answer>", "# ", "\n", "* ", "Answer\n", "(", "[", "1,",
     "9", "\\frac{", "the final answer "],
)  # fmt: skip
def test_the_time_is_linear_in_the_text(piece):
    def seconds(times: int) -> float:
        text, start = piece * times, time.process_time()
        for level in ("strict", "lenient"):
            find_answer(text, "last_number", level)
        answer_start(text)
        return time.process_time() - start

    gc.disable()  # a collection takes as long as there are objects of other tests
    try:
        # 8 times the text: 8 times the time, and 64 times if it were quadratic
        assert min(seconds(16_000) for _ in range(3)) < 0.1 + 24 * seconds(2_000)
    finally:
        gc.enable()
