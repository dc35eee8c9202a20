"""The trace of a completion, and traces that give away the answer or the program."""

import pytest

from fastrl.rewards.traces import holds_program, states_answer, trace_of


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("a <reasoning> b\nc </reasoning> d", "b\nc"),
        ("<reasoning>b", "b"),
        ("a <reasoning>", ""),
        (" a b \n", "a b"),
        ("", ""),
        ("<reasoning></reasoning> rest", ""),
        ("<reasoning>1</reasoning><reasoning>2</reasoning>", "1"),
        ("b</reasoning> d", "b</reasoning> d"),
        ("<reason>b</reason>", "<reason>b</reason>"),
    ],
)
def test_trace_of(text, trace):
    assert trace_of(text, "reasoning") == trace


def test_another_tag():
    assert trace_of("<reasoning>a</reasoning><plan>b</plan>", "plan") == "b"


@pytest.mark.parametrize(
    ("trace", "gold", "leaks"),
    [
        ("6 boxes of 3 make 6*3 = 18", "18", False),  # a last step
        ("18", "18", False),
        ("so \\boxed{18}", "18", True),
        ("so \\boxed{17}", "18", False),
        ("\\boxed{17} no, \\boxed{18}, or \\boxed{16}", "18", True),
        ("The answer is 18.", "18", True),
        ("the ANSWER IS: 18", "18", True),
        ("answer: 18", "18", True),
        ("#### 18", "18", True),
        ("Final answer 18", "18", True),
        ("The final answer is **18**", "18", True),
        ("The answer is 9 * 2 = 18 dollars.", "18", True),
        ("The answer is 1,200 meters", "1200", True),
        ("The answer is 180.", "18", False),
        ("The answer is 1.18", "18", False),
        ("The answer is what we look for. 9 * 2 = 18", "18", False),
        ("#### 17\n18", "18", False),
        ("the answer is \\frac{1}{2}", "1/2", True),
        ("we have the answer when 9*2 = 18", "18", False),
        ("", "18", False),
        ("\\boxed {18}", "18", True),
        ("\\boxed 18", "18", True),
        ("\\fbox{18}", "18", True),
        ("<answer> 18 </answer>", "18", True),
        ("La réponse est 18.", "18", True),
        ("答案是: 18", "18", True),
        ("**Answer**\n\n18", "18", True),
        ("The result: 18", "18", True),
        ("so the result is 18 apples.", "18", True),
        ("Result = 18", "18", True),
        ("the result of 9 + 9 goes on as 18", "18", False),
        ("#### 18. Add the numbers", "18", False),
    ],
)
def test_states_answer(trace, gold, leaks):
    assert states_answer(trace, gold) is leaks


@pytest.mark.parametrize(
    "piece",
    [
        "answer: ",
        "result:",
        "#### ",
        "final answer ",
        "\n",
        "def f(",
        "):",
        "x = ",
        " ",
        "<answer>",
        "\\boxed{",
    ],
)
def test_long_traces_are_read_at_once(piece):
    """Milliseconds; what is quadratic takes minutes."""
    trace = piece * (100_000 // len(piece)) + "1"
    assert not states_answer(trace, "2")
    assert not holds_program(trace)


@pytest.mark.parametrize(
    ("trace", "holds"),
    [
        ("Read x, multiply by 4, print the last digit.", False),
        ("for each x in the list: add it, and print the sum", False),
        ("for each number:\nreturn the sum", False),
        ("import the numbers from the input\nclass of problems: greedy", False),
        ("", False),
        ("first\nprint(int(input())*4%10)", True),
        ("```python\nx = 1\n```", True),
        ("so:\n  ```\nx\n```", True),
        ("def solve(n):", True),
        ("    def solve(n: int) -> int:", True),
        ("class Heap:", True),
        ("import sys", True),
        ("import numpy as np", True),
        ("from math import gcd", True),
        ("n = int(input())", True),
        ("a, b = map(int, input().split())", True),
        ("for i in range(n):", True),
        ("n = int(open(0).read())", True),
        ("t=int(input())", True),
        ("N, *A = map(int, sys.stdin.read().split())", True),
        ("for line in sys.stdin:", True),
        ("for line in open(0):", True),
        ("while True:", True),
        ("if __name__ == '__main__':", True),
        (
            "for x in the list: add it\nwhile there are some:\nlet the sum = what was read from the input",
            False,
        ),
    ],
)
def test_holds_program(trace, holds):
    assert holds_program(trace) is holds
