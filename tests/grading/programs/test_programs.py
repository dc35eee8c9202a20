"""Programs against tests: outcomes, forms of tests, extraction from text; no outcome can be forged."""

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandboxed import descendants, needs_sandbox

from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.report import Ending, judge
from fastrl.grading.programs.runner import (
    Outcome,
    ProgramReport,
    ProgramRunner,
    ProgramTests,
    extract_program,
)
from fastrl.grading.programs.values import from_line, to_line

CONFIG = ProgramConfig(num_workers=2, timeout_s=2.0, memory_mib=256, max_tests=3)
ADD = ProgramTests(cases=(("1 2\n", "3\n"), ("5 6", "11"), ("-1 1", "0"), ("0 0", "no program passes this")))
INCREMENT = ProgramTests(
    prompt='from math import floor\ndef half(x):\n    return x / 2\ndef plus(x):\n    """One more."""\n',
    entry_point="plus",
    check="def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(x=half(8)) == 5.0\n",
)


@pytest.fixture(scope="module")
def runner():
    with ProgramRunner(CONFIG) as shared:
        yield shared


OUTCOMES = {
    "print(sum(map(int, input().split())))": ("passed", 3, ""),
    "a, b = map(int, input().split())\nprint(f' {a + b}\\n\\n', end='')": ("passed", 3, ""),
    "print(3)": ("wrong_answer", 1, "word 1: expected '11', got '3'"),
    "print(3, 4)": ("wrong_answer", 0, "expected 1 words, got 2"),
    "pass": ("wrong_answer", 0, "expected 1 words, got 0"),
    "a, b = map(int, input().split())\nprint(a + b)\nassert a < 5": (
        "runtime_error", 2, "AssertionError",
    ),
    "a, b = map(int, input().split())\nassert a < 0\nprint(a + b)": (
        "runtime_error", 1, "AssertionError",
    ),
    "a, b = map(int, input().split())\nprint(a + b if a < 5 else 1)\n1 / (a + 1)": (
        "wrong_answer", 1, "word 1: expected '11', got '1'",
    ),
    "print(": ("compile_error", 0, "SyntaxError: '(' was never closed"),
    "return 3": ("compile_error", 0, "SyntaxError: 'return' outside function"),
    "print(3)\nexit()": ("wrong_answer", 1, "word 1: expected '11', got '3'"),
    "print(3)\nimport sys\nsys.exit(0)": ("wrong_answer", 1, "word 1: expected '11', got '3'"),
    "print(3)\nimport sys\nsys.exit('bye')": ("runtime_error", 0, "bye"),
    "import nowhere": ("runtime_error", 0, "ModuleNotFoundError: No module named 'nowhere'"),
    "if input() == '5 6':\n while True: pass\nprint(3)": ("timeout", 1, "time limit of 2 s"),
    "import atexit\natexit.register(print, sum(map(int, input().split())))": ("passed", 3, ""),
    "if __name__ == '__main__':\n print(sum(map(int, input().split())))": ("passed", 3, ""),
    "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)": ("passed", 3, ""),
    "import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()": (
        "passed", 3, "",
    ),
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("program", list(OUTCOMES))
def test_outcomes_of_programs_that_read_and_print(runner, program):
    outcome, passed, detail = OUTCOMES[program]
    assert runner.run([(program, ADD)]) == [ProgramReport(Outcome(outcome), passed, 3, detail)]


FUNCTIONS = {
    "def plus(x): return x + 1": ("passed", ""),
    "    return x + 1\n": ("passed", ""),
    "    return floor(half(2 * x)) + 1\n\nprint('noise')": ("passed", ""),
    "def other(x): return x + 1\nplus = lambda x: other(x)": ("passed", ""),
    "class plus(int):\n def __new__(cls, x): return x + 1": ("passed", ""),
    "    return x": ("wrong_answer", "AssertionError at assert candidate(1) == 2"),
    "    return 2": ("wrong_answer", "AssertionError at assert candidate(x=half(8)) == 5.0"),
    "    return x / 0": (
        "runtime_error",
        "ZeroDivisionError: division by zero at assert candidate(1) == 2",
    ),
    "    return (i for i in [2])": (
        "runtime_error",
        "TypeError: calls take and give plain data, not generator at assert candidate(1) == 2",
    ),
    "    while True: pass": ("timeout", "time limit of 2 s"),
    "    return [": ("compile_error", "SyntaxError: '[' was never closed"),
    "def plus(x) return x": ("compile_error", "SyntaxError: expected ':'"),
    "plus: int": ("wrong_answer", "AssertionError at assert candidate(1) == 2"),
    "    return '2' * 400000": (
        "runtime_error",
        "an answer exceeds the output limit at assert candidate(1) == 2",
    ),
}


@needs_sandbox
@pytest.mark.parametrize("program", list(FUNCTIONS))
def test_outcomes_of_functions(runner, program):
    outcome, detail = FUNCTIONS[program]
    passed = outcome == "passed"
    assert runner.run([(program, INCREMENT)]) == [ProgramReport(Outcome(outcome), passed, 1, detail)]


EQUAL_TO_ALL = "class Any:\n def __eq__(self, other): return True\ndef plus(x): return Any()"
FORGERIES = {
    "exits with success": "import os\ndef plus(x): os._exit(0)",
    "exits at import": "import sys\nsys.exit(0)\ndef plus(x): return x",
    "exits by C": "import ctypes\ndef plus(x): ctypes.CDLL(None).exit(0)",
    "equal to everything": EQUAL_TO_ALL,
    "equal number": (
        "class Any(int):\n def __eq__(self, other): return True\n __hash__ = None\ndef plus(x): return Any(0)"
    ),
    "patched builtins": (
        "import builtins, sys\nbuiltins.AssertionError = type('A', (BaseException,), {})\n"
        "sys.excepthook = lambda *_: None\nbuiltins.exec = builtins.compile = print\ndef plus(x): return 0"
    ),
    "prints a verdict": 'print(\'{"outcome": "passed", "detail": ""}\')\ndef plus(x): return 0',
    "writes a verdict everywhere": (
        'import os\nfor n in range(1, 64):\n try: os.write(n, b\'{"outcome": "passed", "detail": ""}\')\n'
        " except OSError: pass\ndef plus(x): return 0"
    ),
    "answers with what is no data": (
        'import os\ndef plus(x):\n os.write(6, b\'{"exec": ["print()"]}\\n\')\n return 0'
    ),
    "answers with noise": "import os\ndef plus(x):\n os.write(6, b'\\xff\\x00\\n' * 9)\n return 0",
    "answers with an endless line": "import os\ndef plus(x):\n while True: os.write(6, b'[' * 65536)",
    "signals to the checker": (
        "import os\ndef plus(x):\n for n in range(1, 200):\n  try: os.kill(n, 9)\n"
        "  except OSError: pass\n return 0"
    ),
    "looks for the test in memory": (
        "import gc\nword = ' '.join(['assert', 'candidate(1)'])\ndecoy = word + ' or so'\n"
        "def texts():\n for each in gc.get_objects():\n"
        "  yield from (o for o in gc.get_referents(each) if isinstance(o, (str, bytes)))\n"
        "def plus(x):\n hits = {t for t in texts() if word in str(t) and t != word}\n"
        " return 0 if hits == {decoy} else 2 if x == 1 else 5.0"
    ),
    "a check of its own": "def check(candidate): pass\ndef plus(x): return 0",
}


@needs_sandbox
@pytest.mark.parametrize("name", list(FORGERIES))
def test_no_program_passes_but_by_its_answers(runner, name):
    (report,) = runner.run([(FORGERIES[name], INCREMENT)])
    assert report.outcome in (Outcome.WRONG_ANSWER, Outcome.RUNTIME_ERROR), report
    assert runner.run([("    return x + 1", INCREMENT)])[0].outcome is Outcome.PASSED


@needs_sandbox
@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"test": "def check(c): assert c(len) == 2"},
            "Unsendable: calls take and give plain data, not builtin",
        ),
        ({"test": "def chek(c): pass"}, "the test itself does not run: KeyError: 'check'"),
        ({"test": "import nowhere"}, "ModuleNotFoundError"),
    ],
)
def test_a_test_that_does_not_run_is_not_the_program(runner, columns, says):
    tests = ProgramTests.from_columns({"entry_point": "plus", "prompt": "def plus(x):\n"[:0], **columns})
    (report,) = runner.run([("def plus(x): return 2", tests)])
    assert report.outcome is Outcome.SANDBOX_ERROR and says in report.detail, report


@needs_sandbox
def test_equal_jobs_run_once_and_reports_keep_their_order():
    with ProgramRunner(CONFIG) as runner:
        right, wrong = "print(sum(map(int, input().split())))", "print(3)"
        reports = runner.run(
            [(wrong, ADD), (right, ADD), (wrong, ADD), ("", ProgramTests()), (right, INCREMENT)]
        )
        assert [report.outcome.value for report in reports] == [
            "wrong_answer", "passed", "wrong_answer", "no_tests", "runtime_error",
        ]  # fmt: skip
        assert reports[3] == ProgramReport(Outcome.NO_TESTS, 0, 0, "")
        assert runner.num_run == 4
        assert runner.counts == {
            Outcome.WRONG_ANSWER: 2, Outcome.PASSED: 1, Outcome.NO_TESTS: 1, Outcome.RUNTIME_ERROR: 1,
        }  # fmt: skip
        assert runner.run([]) == []


@needs_sandbox
def test_a_worker_that_dies_costs_one_test():
    with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=2.0)) as runner:
        ok = ProgramTests(cases=(("", "ok"),))
        assert runner.run([("print('ok')", ok)])[0].outcome is Outcome.PASSED
        (worker,) = runner._workers
        os.kill(worker._process.pid, 9)  # the launcher: the sandbox must go with it
        time.sleep(0.2)
        reports = runner.run([("print('ok')", ok), ("print('ok') #", ok)])
        assert {report.outcome for report in reports} <= {Outcome.PASSED, Outcome.SANDBOX_ERROR}
        assert reports[1].outcome is Outcome.PASSED
        assert runner._workers != [worker]


def sleeps(pid: int) -> bool:
    """Whether a process has called nanosleep or clock_nanosleep (x86-64's 35 and 230)."""
    try:
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] in ("35", "230")
    except OSError:
        return False


@needs_sandbox
def test_workers_work_side_by_side():
    """Four programs, each of which would take longer than the test waits, are there at once."""
    sleepy = ProgramTests(cases=(("", "ok"),))
    jobs = [(f"import time\ntime.sleep(600) # {i}", sleepy) for i in range(4)]
    reports = []
    with ProgramRunner(ProgramConfig(num_workers=4, timeout_s=600.0)) as runner:
        asked = threading.Thread(target=lambda: reports.extend(runner.run(jobs)))
        asked.start()
        until, programs = time.monotonic() + 120, []
        while len(programs) < 4 and time.monotonic() < until:
            time.sleep(0.02)
            below = [descendants(worker._process.pid) for worker in list(runner._workers)]
            # below a worker: process 1 of the sandbox, its program
            programs = [pids[1] for pids in below if len(pids) == 2 and sleeps(pids[1])]
        for pid in programs:
            os.kill(pid, 9)
        asked.join()
    assert len(programs) == 4
    assert [report.outcome for report in reports] == [Outcome.RUNTIME_ERROR] * 4


PAIRS = (("1\n", "2\n"), ("", "x"))


@pytest.mark.parametrize(
    "tests",
    [
        [{"stdin": "1\n", "stdout": "2\n"}, {"stdin": "", "stdout": "x"}],
        {"inputs": ["1\n", ""], "outputs": ["2\n", "x"]},
        '[{"stdin": "1\\n", "stdout": "2\\n"}, {"stdin": "", "stdout": "x"}]',
        '{"inputs": ["1\\n", ""], "outputs": ["2\\n", "x"]}',
    ],
)
def test_forms_of_tests(tests):
    found = ProgramTests.from_columns({"tests": tests, "question": "?"})
    assert found == ProgramTests(cases=PAIRS) and len(found) == 2
    assert found.as_text(1000) == "input:\n1\noutput:\n2\n\ninput:\n\noutput:\nx"
    assert found.as_text(9) == "input:\n1\n"


def test_function_tests_have_columns_of_their_own():
    columns = {"test": "def check(f): pass", "entry_point": "f", "prompt": "def f():\n", "tests": None}
    found = ProgramTests.from_columns(columns)
    assert found == ProgramTests(check="def check(f): pass", entry_point="f", prompt="def f():\n")
    assert len(found) == 1 and len(ProgramTests()) == 0
    assert found.as_text(100) == "def check(f): pass"


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"question": "?"},
            r"\[tests\] columns: expected tests, or test and entry_point .*, got \['question'\]",
        ),
        ({"test": "def check(f): pass"}, r"\[tests\] columns"),
        ({"tests": "["}, r"\[tests\] tests: expected JSON, got"),
        ({"tests": {"inputs": ["1"], "outputs": []}}, r"outputs: expected 1, one for each input, got 0"),
        ({"tests": [{"stdin": "1"}]}, r"tests: expected stdin and stdout of each, got \[\{'stdin': '1'\}\]"),
        ({"tests": [{"stdin": 1, "stdout": "1"}]}, r"tests: expected text, got \(1, '1'\)"),
    ],
)
def test_rows_that_are_refused(columns, says):
    with pytest.raises(ValueError, match=says):
        ProgramTests.from_columns(columns)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("print(1)", "print(1)"),
        ("Here:\n```python\nprint(1)\n```\nDone.", "print(1)\n"),
        ("```\nprint(1)\n```", "print(1)\n"),
        ("```python\na\n```\nbetter:\n```py\nb\n```", "b\n"),
        ("```python\nprint(1)", "print(1)"),
        ("a\n```python\nx\n```\nb\n```python\nprint(2)\n", "print(2)\n"),
        ("print(1)\n```\nThis prints 1.", "print(1)\n"),
        ("```\nprint(1)", "print(1)"),
        ("print(1)<|im_end|>\nuser", "print(1)"),
        ("```python\nprint(1)\n```<|endoftext|>```python\n2\n```", "print(1)\n"),
        ("  ```python title=x\n  print(1)\n  ```", "  print(1)\n"),
        ("", ""),
    ],
)
def test_the_program_of_a_text(text, program):
    assert extract_program(text) == program


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner)
    | st.lists(inner).map(tuple)
    | st.dictionaries(st.integers() | st.text() | st.tuples(st.integers()), inner)
    | st.sets(st.integers() | st.text())
    | st.frozensets(st.integers()),
    max_leaves=8,
)  # fmt: skip


@given(plain)
def test_values_come_back_from_their_line(value):
    line = to_line(value)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    back = from_line(line)
    assert back == value and type(back) is type(value)


def test_values_of_any_length():
    assert from_line(to_line([2**20000, -(2**20000), float("inf")])) == [2**20000, -(2**20000), float("inf")]
    with pytest.raises(TypeError, match="plain data, not function"):
        to_line([lambda: 1])
    for line in (b"{}", b'{"exec": []}', b'{"int": 5, "tuple": []}', b"nonsense"):
        with pytest.raises(ValueError):
            from_line(line)


@pytest.mark.parametrize("stage", ["", "s", "sc"])
def test_a_check_that_does_not_run_is_named_wherever_the_program_was(stage):
    verdict = {"outcome": "sandbox_error", "detail": "the test itself does not run: KeyError: 'check'"}
    ending = Ending(stage, -9, 0.0, None, verdict, b"", b"")
    assert judge(ending, None, CONFIG) == (Outcome.SANDBOX_ERROR, verdict["detail"])


def test_the_last_of_several_processes_tracebacks_is_reported():
    end = "BlockingIOError: [Errno 11] Resource temporarily unavailable"
    start = 'Traceback (most recent call last):\n  File "<program>", line 2, in <module>\n'
    ending = Ending("sc", 1, 0.1, None, None, b"", f"{start}{start}{end}\n{start}".encode())
    outcome, detail = judge(ending, "ok", CONFIG)
    assert (outcome, detail) == (Outcome.RUNTIME_ERROR, f"{end}: process limit of {CONFIG.max_processes}")
