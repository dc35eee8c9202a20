"""Tests as public data sets have them: called functions, floats, long outputs, and what ends a program."""

import pytest
from sandboxed import needs_sandbox

from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.cases import ProgramTests
from fastrl.grading.programs.compare import same_value, same_word
from fastrl.grading.programs.process import NoSandboxError, ProgramProcess, numpy_folders
from fastrl.grading.programs.report import Ending, Outcome, judge
from fastrl.grading.programs.runner import ProgramRunner, extract_program

CONFIG = ProgramConfig(num_workers=2, timeout_s=10.0, memory_mib=512, output_kib=16)


@pytest.fixture(scope="module")
def runner():
    with ProgramRunner(CONFIG) as shared:
        yield shared


def ran(runner, program, **columns):
    (report,) = runner.run([(program, ProgramTests.from_columns(columns))])
    return report


def called(inputs, outputs, name="add"):
    return {"inputs": inputs, "outputs": outputs, "fn_name": name}


ADD = "def add(self, xs: List[int]) -> int:\n        return sum(xs)"
CALLS = {
    "text, an argument a line": (called(["[2, 5]\n3"], ["10"]), "def add(xs, x): return sum(xs) + x"),
    "a method of Solution": (called(["[2, 5]"], ["7"]), f"class Solution:\n    {ADD}"),
    "its dotted name": (called(["[2, 5]"], ["7"], "Solution().add"), f"class Solution:\n    {ADD}"),
    "lists of arguments": (called([[[2, 5], 3]], [10]), "def add(xs, x): return sum(xs) + x"),
    "a value in a list of its own": (called([[1], [2]], [[[1, 2]], [[2, 4]]]),
                                     "def add(x): return (x, 2 * x)"),
    "no arguments": (called([[]], [{"1": [1.5]}]), "def add(): return {1: (1.5,)}"),
    "texts": (called([["a\u2028b"]], ["b\u2028a"]), "def add(s): return s[::-1]"),
    "what sites import": (called(["[1, 2]"], ["[[1, 1], [2, 4]]"]),
                          "def add(xs): return sorted(Counter({x: pow(x, 2, 7) for x in xs}).items())"),
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("name", CALLS)
def test_called_functions(runner, name):
    tests, program = CALLS[name]
    report = ran(runner, program, tests=tests)
    assert report.outcome is Outcome.PASSED, report
    wrong = ran(runner, "def add(*_): return 'nothing of that'", tests=tests)
    if name == "its dotted name":
        assert wrong.outcome is Outcome.RUNTIME_ERROR
    else:
        assert wrong.outcome is Outcome.WRONG_ANSWER and wrong.detail.startswith("AssertionError: expected ")


@needs_sandbox
def test_what_sites_import_is_no_answer(runner):
    tests = called(["4"], ["24"], "factorial")
    report = ran(runner, "pass", tests=tests)
    assert report.outcome is Outcome.RUNTIME_ERROR
    assert report.detail == "NameError: the program defines no factorial; the program ended"
    solution = "class Solution:\n    def factorial(self, n): return 24 if n == 4 else 0"
    assert ran(runner, solution, tests=tests).outcome is Outcome.PASSED
    assert ran(runner, "from math import factorial", tests=tests).outcome is Outcome.PASSED


@needs_sandbox
def test_what_a_called_function_raises_is_its_own_error(runner):
    report = ran(runner, "def add(xs): return xs[9]", tests=called(["[2, 5]"], ["7"]))
    assert (report.outcome, report.detail) == (
        Outcome.RUNTIME_ERROR, "IndexError: list index out of range"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tests", "says"),
    [
        (called(["2 5"], ["7"]), r"\[tests\] inputs: expected JSON, a value a line, got \('2 5', '7'\)"),
        (called([2], [7]), r"\[tests\] inputs: expected a list of arguments, or input and output in JSON"),
        (called(["[1]"], ["null"]), r"\[tests\] outputs: expected a value, since a function that does noth"),
        (called([[1]], [[None]]), r"\[tests\] outputs: expected a value"),
        (called(["[1]"], ["1"], 3), r"\[tests\] fn_name: expected a function's name, got 3"),
    ],
)
def test_calls_that_are_refused(tests, says):
    with pytest.raises(ValueError, match=says):
        ProgramTests.from_columns({"tests": tests})


@pytest.mark.parametrize(
    ("word", "wanted", "equal"),
    [
        ("0.14285714", "0.142857142857", True),
        ("0.1428", "0.142857142857", False),
        ("1000000.5", "1000000.0", True),  # relative
        ("1e3", "1000.0", True),
        ("3.0", "3", True),
        ("3.00001", "3", False),
        ("1e18", "1000000000000000001", False),  # an integer is not approximated
        ("1000000000000000002", "1000000000000000001", False),
        ("2", "2.0", True),
        ("1e9999", "1e9998", False),
        ("nan", "0.5", False),
        ("inf", "1e300", False),
        ("yes", "0.5", False),
        ("9" * 5000, "9" * 4999 + "8.0", False),
    ],
)  # fmt: skip
def test_floats_are_equal_within_a_tolerance(word, wanted, equal):
    assert same_word(word, wanted, 1e-6) is equal
    assert not same_word(word, wanted, 0.0)
    ending = Ending("sc", 0, 0.1, None, None, word.encode(), b"")
    outcome, _ = judge(ending, wanted, ProgramConfig(float_tolerance=1e-6))
    assert outcome is (Outcome.PASSED if equal else Outcome.WRONG_ANSWER)


@pytest.mark.parametrize(
    ("value", "wanted", "equal"),
    [
        ([(0.3333333333,)], [[1 / 3]], True),
        ({"a": 2.0000001}, {"a": 2}, True),
        ({"a": 2.1}, {"a": 2}, False),
        (10**400, 1.5, False),
        (float("nan"), 1.5, False),
        (3, 4, False),
        ("0.3333333333", 1 / 3, False),
        ([1], [1, 2], False),
        ([1], 1, False),
        ({"a": 1}, {"b": 1}, False),
    ],
)
def test_values_of_calls_are_equal_within_a_tolerance(value, wanted, equal):
    assert same_value(value, wanted, 1e-6) is equal
    assert not same_value(value, wanted, 0.0)


@needs_sandbox
def test_the_tolerance_reaches_called_functions():
    tests = ProgramTests.from_columns({"tests": called(["3"], ["0.333333333333"])})
    with ProgramRunner(ProgramConfig(num_workers=1, float_tolerance=1e-6)) as runner:
        (report,) = runner.run([("def add(x): return 1 / x", tests)])
    assert report.outcome is Outcome.PASSED, report


@needs_sandbox
def test_an_output_that_the_test_expects_is_never_too_long(runner):
    numbers = " ".join(map(str, range(9000)))  # 44 KB, output_kib is 16
    tests = {"inputs": ["9000"], "outputs": [numbers]}
    report = ran(runner, "print('\\n'.join(map(str, range(int(input())))))", tests=tests)
    assert report.outcome is Outcome.PASSED, report
    report = ran(runner, "print('9' * 500000)", tests=tests)
    assert report.detail == f"output limit of {4 * len(numbers) >> 10} KiB"
    listed = called([[9000]], [list(range(9000))])
    assert ran(runner, "def add(n): return list(range(n))", tests=listed).outcome is Outcome.PASSED


@needs_sandbox
def test_integers_of_any_length_are_read_and_printed(runner):
    long = "9" * 5000
    tests = {"inputs": [long], "outputs": ["1" + "0" * 5000]}
    assert ran(runner, "print(int(input()) + 1)", tests=tests).outcome is Outcome.PASSED
    tests = called([long], ["1" + "0" * 5000])
    assert ran(runner, "def add(x): return x + 1", tests=tests).outcome is Outcome.PASSED


@needs_sandbox
def test_one_time_out_ends_a_program(monkeypatch):
    sent, send = [], ProgramProcess.send
    monkeypatch.setattr(ProgramProcess, "send", lambda *given: sent.append(given[1]) or send(*given))
    tests = {"inputs": list("01234567"), "outputs": list("01234567")}
    with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=1.0)) as runner:
        report = ran(runner, "n = int(input())\nwhile n == 1: pass\nprint(n)", tests=tests)
    assert (report.outcome, report.passed, report.total) == (Outcome.TIMEOUT, 1, 8)
    assert sent == [(0, 0), (0, 1)]


def test_what_ran_next_to_a_time_out_does_not_count():
    tests = ProgramTests(cases=(("", "0"), ("", "1"), ("", "2")))
    found = {2: (Outcome.PASSED, ""), 1: (Outcome.TIMEOUT, "slow"), 0: (Outcome.PASSED, "")}
    report = ProgramRunner(CONFIG)._report(("", tests), found)
    assert (report.outcome, report.passed, report.total, report.detail) == (Outcome.TIMEOUT, 1, 3, "slow")


@needs_sandbox
def test_arguments_are_copies(runner):
    """Function tests call by value: what a function does to its arguments, a test does not see."""
    check = "def check(f):\n    xs = [3, 1, 2]\n    assert f(xs) == [1, 2, 3]\n    assert xs == [3, 1, 2]\n"
    program = "def f(xs):\n    xs.sort()\n    return xs"
    assert ran(runner, program, test=check, entry_point="f").outcome is Outcome.PASSED


@needs_sandbox
@pytest.mark.parametrize("prompt", ["Write half(x).", "Halve", "def half(x):", "import math\n"])
def test_a_prompt_may_be_english_or_a_signature(runner, prompt):
    columns = {"prompt": prompt, "entry_point": "half", "test": "def check(f):\n    assert f(8) == 4.0\n"}
    assert ran(runner, "def half(x):\n    return x / 2", **columns).outcome is Outcome.PASSED


def test_a_prompt_that_begins_the_function_and_is_no_python_is_refused():
    with pytest.raises(ValueError, match=r"\[tests\] prompt: expected Python source or English, got"):
        ProgramTests.from_columns({"prompt": "def f(x:", "entry_point": "f", "test": "def check(f): pass"})


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```\nIt prints\n```\n7\n```", "a\n"),
        ("```Python3\na\n```\n```cpp\nint main() {}\n```", "a\n"),
        ("```cpp\nint main() {}\n```", ""),
        ("```\na\n```\n```text\n7\n```", "a\n"),
        ("```\na\n```\n```\nb\n```", "b\n"),
        ("a\n```\nIt prints\n```\n7\n```", "a\n"),
    ],
)
def test_the_last_block_in_python_is_the_program(text, program):
    assert extract_program(text) == program


@needs_sandbox
def test_numpy_can_be_imported_if_configured(runner):
    folder = numpy_folders()[0]
    program = "import numpy\nprint(numpy.arange(3).sum())"
    tests = {"inputs": [""], "outputs": ["3"]}
    assert ran(runner, program, tests=tests).detail == "ModuleNotFoundError: No module named 'numpy'"
    with ProgramRunner(ProgramConfig(num_workers=1, numpy=True, timeout_s=20.0)) as able:
        if folder.startswith("/tmp/"):  # where the sandbox has a folder of its own
            with pytest.raises(NoSandboxError, match=f"{folder} lies in /tmp"):
                ran(able, program, tests=tests)
            return
        assert ran(able, program, tests=tests).outcome is Outcome.PASSED
        # nothing else of the folder that packages are installed in is there
        others = f"import os\nprint(len(os.listdir(os.path.dirname({folder!r}))))"
        report = ran(able, others, tests={"inputs": [""], "outputs": [str(len(numpy_folders()))]})
        assert report.outcome is Outcome.PASSED, report
