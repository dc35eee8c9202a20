"""The executor: prompts, trees, seeds, cached answers, and prompts that don't fit."""

import pytest
from executors import PLAIN, Reader, math_executor

from fastrl.config import ExecutorConfig
from fastrl.grading import AnswerGrader
from fastrl.methods.tracelift.executor import Executor, ExecutorRequest, shared_length
from fastrl.methods.tracelift.executor_prompts import ExecutorPrompts
from fastrl.methods.tracelift.verifiers import MathVerifier
from fastrl.types import PrefixTree


@pytest.fixture(scope="module")
def last_number():
    with AnswerGrader(num_workers=1, extraction="last_number") as grader:
        yield grader


def request(question, trace=None, samples=1, seed=0, gold="7", cache=False):
    return ExecutorRequest(
        question=question, trace=trace, reference=gold, num_samples=samples, seed=seed, cache=cache
    )


def content(prompts, *asked):
    return prompts.messages(*asked)[-1]["content"]


def test_default_prompts_of_the_tasks():
    for task in ("math", "code"):
        prompts = ExecutorPrompts(ExecutorConfig(task=task))
        (system, alone), (_, helped) = prompts.messages("Q?", None), prompts.messages("Q?", "T1\nT2")
        assert system["role"] == "system" and system["content"] and alone["role"] == "user"
        assert "Q?" in alone["content"] and "Q?" in helped["content"]
        assert "T1\nT2" in helped["content"] and "thought" not in alone["content"]
        assert prompts.begin
        assert content(prompts, "Q?", "") == alone["content"]  # an empty trace is none


def test_custom_prompts_are_filled_in_once_and_cut():
    config = ExecutorConfig(**PLAIN, max_question_chars=12, max_trace_chars=4)
    prompts = ExecutorPrompts(config)
    assert prompts.messages("{trace} {x}!", "{question}") == [
        {"role": "user", "content": "{trace} {x}!\n{que"}
    ]
    assert content(prompts, "a" * 13, None) == "a" * 12 + "\n"


@pytest.mark.parametrize(
    ("sequences", "shared"),
    [
        ([[1, 2, 3]], 3),
        ([[1, 2, 3], [1, 2, 3]], 3),
        ([[1, 2, 3], [1, 2]], 2),
        ([[1, 2, 3], [1, 9], [1, 2, 4]], 1),
        ([[5], [1, 9]], 0),
        ([[1, 2, 9], [1, 2, 1, 4], [1, 2, 10]], 2),
    ],
)
def test_shared_length(sequences, shared):
    assert shared_length(sequences) == shared


def test_one_call_one_tree_a_problem(last_number):
    executor = math_executor(lambda read, j: "7", last_number, begin="A:", temperature=0.3, top_p=0.9)
    engine = executor.engine
    found = executor.run(
        [request("q1", "ab", 4, 11), request("q2", None, 8, 12), request("q1", "ac", 4, 13),
         request("q1", None, 8, 14)]
    )  # fmt: skip
    ((trees, sampling),) = engine.calls
    assert (sampling.temperature, sampling.top_p) == (0.3, 0.9)
    assert [len(answers) for answers in found] == [4, 8, 4, 8]
    assert [engine.tokenizer.decode(tree.prompt_ids) for tree in trees] == [
        "<user>q1\n", "<user>q2\n<assistant>A:"
    ]  # fmt: skip
    assert engine.reads() == [
        ("<user>q1\nab<assistant>A:", 4, 11),
        ("<user>q1\nac<assistant>A:", 4, 13),
        ("<user>q1\n<assistant>A:", 8, 14),
        ("<user>q2\n<assistant>A:", 8, 12),
    ]
    assert trees[1].branches[0].token_ids == []
    assert found[0][0].text == "A:7" and found[0][0].checked.success


def test_a_system_prompt_and_what_differs_from_the_first_token_on(last_number):
    executor = math_executor(lambda read, j: "7", last_number, system="S!")
    executor.run([request("q", "t"), request("q")])
    assert executor.engine.reads()[0][0] == "S!<user>q\nt<assistant>"
    executor = math_executor(lambda read, j: "7", last_number, prompt="alone {question}")
    executor.engine.tokenizer.chat_template = None
    executor.run([request("q", "t"), request("q")])
    trees = executor.engine.calls[0][0]
    assert all(isinstance(tree, PrefixTree) and tree.prompt_ids for tree in trees)
    assert [text for text, _, _ in executor.engine.reads()] == ["q\nt", "alone q"]


@pytest.mark.parametrize(
    ("answer", "gold", "success", "label"),
    [
        ("7", "7", True, "correct"),
        (" 7 apples, that is all", "7", True, "correct"),
        ("3 + 4 = 7", "7", True, "correct"),
        ("8", "7", False, "wrong"),
        ("\\boxed{7} and 8", "7", True, "correct"),
        ("#### 1,200", "#### 1,200", True, "correct"),
        ("none", "7", False, "no_answer"),
        ("The answer is: the total is 1,200 pears.", "1200", True, "correct"),
        ("answer: 7 dollars", "7", True, "correct"),
        ("answer: $7.00 per day", "7", True, "correct"),
        ("answer: 7 of 9 eggs", "7", False, "wrong"),
        ("answer: -7 degrees", "7", False, "wrong"),
        ("answer: 7 x", "7", False, "wrong"),
        ("answer: 7 apples", "\\frac{1}{7}", False, "wrong"),
        ("it is 7 and goes on…", "7", True, "correct"),  # graded as it is
    ],
)
def test_math_is_graded_by_the_last_number(last_number, answer, gold, success, label):
    executor = math_executor(lambda read, j: answer, last_number)
    ((found,),) = executor.run([request("q", gold=gold)])
    assert (found.checked.success, found.checked.score, found.checked.label) == (success, success, label)
    assert found.finish_reason == ("length" if answer.endswith("…") else "stop")


def test_the_beginning_of_an_answer_is_part_of_it(last_number):
    for begin, success in (("Final answer:", True), ("", False)):
        executor = math_executor(lambda read, j: " 7\nof 9 eggs", last_number, begin=begin)
        ((found,),) = executor.run([request("q")])
        assert (found.text, found.checked.success) == (begin + " 7\nof 9 eggs", success)


def test_cached_requests_are_sampled_once(last_number):
    executor = math_executor(lambda read, j: "7" if j < 2 else "8", last_number)
    alone = request("q", None, 3, 5, cache=True)
    assert not executor.is_cached(alone)
    first = executor.run([request("q", "t"), alone, alone, request("r", None, 3, 5, cache=True)])
    assert executor.is_cached(alone)
    assert [read for read, _, _ in executor.engine.reads()] == [
        "<user>q\nt<assistant>", "<user>q\n<assistant>", "<user>r\n<assistant>"
    ]  # fmt: skip
    assert first[1] == first[2] and [a.checked.success for a in first[1]] == [True, True, False]
    assert executor.run([alone]) == [first[1]]
    assert len(executor.engine.calls) == 1
    other_gold = request("q", None, 3, 5, gold="8", cache=True)
    assert [a.checked.success for a in executor.run([other_gold])[0]] == [False, False, True]
    assert executor.run([]) == [] and len(executor.engine.calls) == 2


def test_success_rates(last_number):
    executor = math_executor(lambda read, j: "7" if j < len(read) % 4 else "0", last_number)
    asked = (["q", "q", "r"], ["t", None, "tt"], ["7", "7", "8"], 4, 3)
    # "<user>q\nt<assistant>" is 20 long, without the trace 19
    assert executor.success_rates(*asked) == [0.0, 0.75, 0.0]
    seeds = [seed for _, _, seed in executor.engine.reads()]
    assert len(set(seeds)) == 3
    executor.success_rates(["r", "q"], ["tt", None], ["8", "7"], 4, 3)
    assert sorted(seed for _, _, seed in executor.engine.reads()) == sorted(seeds[1:])
    executor.success_rates(*asked[:4], 4)
    assert not set(seeds) & {seed for _, _, seed in executor.engine.reads()}


def test_what_does_not_fit_is_refused(last_number):
    engine = Reader(lambda read, j: "7", max_model_len=40)
    executor = Executor(engine, ExecutorConfig(**PLAIN, max_new_tokens=10), MathVerifier(last_number))
    executor.run([request("q", "t" * 11)])  # <user> q newline 11 <assistant>: 15 + 10
    executor.run([request("q", "t" * 26)])
    with pytest.raises(ValueError, match=r"\[executor\] model: expected room for .* 31 \+ new 10, got .* 40"):
        executor.run([request("q", "t" * 27)])
    executor.check_capacity(["q", "qq"], 24)
    with pytest.raises(ValueError, match=r"executor.max_trace_chars"):
        executor.check_capacity(["q", "qq"], 26)
