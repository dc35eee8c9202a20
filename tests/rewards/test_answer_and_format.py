"""The answer and format rewards: plain and conversational completions, and logged columns."""

import pytest

from fastrl.grading import AnswerGrader
from fastrl.rewards import AnswerReward, FormatReward
from fastrl.rewards.batch import completion_text, group_indexes

TEXTS = [r"so \boxed{7}", r"\boxed{8}", "seven", r"\boxed{\frac{7}{(}", r"\boxed{\sqrt{}^{}_}"]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("completions", [TEXTS, [chat(text) for text in TEXTS]], ids=["plain", "chat"])
def test_answer_reward(grader, completions):
    extra, metrics = {}, {}
    rewards = AnswerReward(grader)(
        prompts=["q"] * 5,
        completions=completions,
        completion_ids=[[1]] * 5,
        solution=["7"] * 5,
        trainer_state=None,
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
        level=[1] * 5,
    )
    assert rewards == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert extra == {"verdict": ["correct", "wrong", "no_answer", "no_answer", "unreadable"]}
    assert metrics == {
        "verify/no_answer": 0.4,
        "verify/unreadable": 0.2,
        "verify/unevaluated": 0.0,
        "verify/timeout": 0.0,
        "verify/error": 0.0,
    }


def test_answer_reward_on_a_files_own_gold_columns(grader):
    reward = AnswerReward(grader)
    assert (
        reward(["q"] * 3, [r"\boxed{1200}"] * 3, solution=["…\n#### 1,200", 1200.0, '["1200"]']) == [1.0] * 3
    )
    assert reward([], [], solution=[]) == []
    assert reward.__name__ == "answer"


def test_a_timeout_is_no_none():
    metrics = {}
    with AnswerGrader(num_workers=1, timeout_s=0.3) as grader:
        rewards = AnswerReward(grader)(
            ["q"], [r"\boxed{9^{9^{9^{9}}}}"], solution=[r"\sqrt{2}"], log_metric=metrics.__setitem__
        )
    assert rewards == [0.0]
    assert metrics["verify/timeout"] == 1.0


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (r"so \boxed{7}", 1.0),
        (r"so $\boxed{\frac{1}{2}}$." + "\n", 1.0),
        (r"\boxed{7}" + "x" * 32, 1.0),
        (r"\boxed{7}" + "x" * 33, 0.0),
        (r"\boxed{7} \boxed{7}", 0.0),
        (r"\boxed{7} \boxed{7", 0.0),
        (r"\boxed{ }", 0.0),
        (r"\boxed{7", 0.0),
        ("7", 0.0),
        ("", 0.0),
    ],
)
def test_format_reward(text, reward):
    assert FormatReward()(["q"] * 2, [text, chat(text)]) == [reward, reward]


def test_format_reward_by_pattern():
    reward = FormatReward(pattern=r"<think>.*</think>\s*\d+")
    assert reward(["q"] * 3, ["<think>a\nb</think>\n7 ", "<think>a</think> x", "a <think></think>7"]) == [
        1.0,
        0.0,
        0.0,
    ]
    assert reward.__name__ == "format"


@pytest.mark.parametrize(
    ("prompts", "groups"),
    [
        ([], []),
        (["a"], [0]),
        (["a", "a", "b", "a"], [0, 0, 1, 2]),
        ([chat("a"), chat("a"), chat("b")], [0, 0, 1]),
    ],
)
def test_group_indexes(prompts, groups):
    assert group_indexes(prompts) == groups


def test_completion_text():
    assert completion_text("a") == completion_text(chat("a")) == "a"
    assert completion_text([]) == ""
