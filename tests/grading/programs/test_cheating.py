"""Programs that cheat (pass without the work, or use uncounted resources) never pass."""

import pytest
from sandboxed import needs_sandbox

from fastrl.check.executor import check_sandbox
from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs.runner import Outcome, ProgramRunner, ProgramTests
from fastrl.grading.programs.sandbox import _libraries, seen_through
from fastrl.grading.programs.values import from_line

pytestmark = needs_sandbox
CONFIG = ProgramConfig(num_workers=1, timeout_s=20.0, memory_mib=160, max_processes=8, output_kib=4096)
OK = ProgramTests(cases=(("", "ok"),))
SWALLOWS = "def check(f):\n    try:\n        f(1)\n    except BaseException:\n        pass\n"
EXPECTS = (
    "def check(f):\n    try:\n        f(-1)\n    except ValueError as error:\n"
    "        assert str(error) == 'no'\n        return\n    assert False\n"
)


@pytest.fixture(scope="module")
def runner():
    with ProgramRunner(CONFIG) as shared:
        yield shared


def outcome(runner: ProgramRunner, program: str, check: str) -> tuple[str, str]:
    (report,) = runner.run([(program, ProgramTests(check=check, entry_point="f"))])
    return report.outcome.value, report.detail


FAULTS = {
    "ends at import": ("import os\nos._exit(0)\ndef f(x): pass", "the program ended"),
    "ends by an exception": ("raise SystemExit\ndef f(x): pass", "the program ended"),
    "ends in the call": ("import os\ndef f(x): os._exit(0)", "the program ended"),
    "leaves in the call": ("def f(x): raise SystemExit", "the program ended"),
    "has no such function": ("g = 1", "the program ended"),
    "closes its pipe": ("import os, time\ndef f(x):\n os.close(6)\n time.sleep(60)", "the program ended"),
    "noise": ("import os\ndef f(x): os.write(6, b'\\xff\\n')", "neither a value nor an exception"),
    "data": ("import os\ndef f(x): os.write(6, b'[1]\\n')", "neither a value nor an exception"),
    "nested": ("import os\ndef f(x): os.write(6, b'[' * 50000 + b'\\n')", "neither a value nor an exception"),
    "a long line": ("def f(x): return '2' * 5000000", "an answer exceeds the output limit"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAULTS))
@pytest.mark.parametrize("check", [SWALLOWS, EXPECTS], ids=["swallows", "expects"])
def test_a_broken_protocol_never_passes(runner, name, check):
    program, says = FAULTS[name]
    found, detail = outcome(runner, program, check)
    assert found == "runtime_error" and f"{says} at " in detail


def test_exceptions_travel_to_the_check(runner):
    assert outcome(runner, "def f(x): raise ValueError('no')", EXPECTS) == ("passed", "")
    assert outcome(runner, "def f(x): raise ValueError('yes')", EXPECTS)[0] == "wrong_answer"
    assert outcome(runner, "def f(x): raise KeyError('no')", EXPECTS)[0] == "runtime_error"
    own = "class Own(Exception): pass\ndef f(x): raise Own('mine')"
    assert outcome(runner, own, EXPECTS)[1].startswith("RuntimeError: Own: mine at ")
    caught = SWALLOWS.replace("BaseException", "AssertionError") + "    assert f(2) == 3\n"
    assert outcome(runner, "def f(x):\n assert x > 1\n return 3", caught) == ("passed", "")


@pytest.mark.parametrize("says", ["time.sleep(600)", "while True: pass"])
def test_a_program_without_an_answer_does_not_pass(says):
    with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=1.0)) as runner:
        assert outcome(runner, f"import time\ndef f(x):\n    {says}", SWALLOWS)[0] == "timeout"


@pytest.mark.parametrize(
    "line",
    [b"", b"[", b"[" * 90000, b'{"int": 5}', b'{"int": "x"}', b'{"set": [[1]]}', b'{"dict": 3}',
     b'{"dict": [1]}', b'{"complex": ["a"]}', b'{"bytes": 5}', b'{"a": 1, "b": 2}', b"\xff",
     b"9" * 9000, b'{"tuple": null}'],
)  # fmt: skip
def test_any_line_is_data_or_a_value_error(line):
    with pytest.raises(ValueError):
        from_line(line)


@pytest.mark.parametrize("wanted", ["", " \n\t"])
def test_tests_that_an_empty_program_passes_are_refused(wanted):
    with pytest.raises(ValueError, match="expected a word of output"):
        ProgramTests.from_columns(
            {"tests": [{"stdin": "1", "stdout": "1"}, {"stdin": "2", "stdout": wanted}]}
        )


def test_checker_and_program_share_only_two_pipes(runner):
    check = (
        "import os, socket\ndef check(f):\n    f(1)\n    assert os.listdir('/tmp') == []\n    try:\n"
        "        socket.socket(socket.AF_UNIX).connect('\\0here')\n    except ConnectionRefusedError:\n"
        "        return\n    assert False\n"
    )
    program = (
        "import socket\nkept = socket.socket(socket.AF_UNIX)\nkept.bind('\\0here')\nkept.listen()\n"
        "def f(x): open('/tmp/here', 'w').write('1')"
    )
    assert outcome(runner, program, check) == ("passed", "")


REFUSED = {
    "large buffers": "import socket; socket.socketpair()[0].setsockopt(1, socket.SO_SNDBUF, 1 << 24)",
    "large buffers to read": "import socket; socket.socketpair()[0].setsockopt(1, socket.SO_RCVBUF, 1)",
    "large pipes": "import fcntl, os; fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)",
    "a lock": "import fcntl; fcntl.flock(open('/usr/bin/env', 'rb'), fcntl.LOCK_EX)",
    "a part's lock": "import fcntl; fcntl.lockf(open('/usr/bin/env', 'rb'), fcntl.LOCK_SH)",
    "a lease": "import fcntl; fcntl.fcntl(open('/usr/bin/env', 'rb'), fcntl.F_SETLEASE, fcntl.F_RDLCK)",
    "/usr/src": "import os; os.listdir('/usr/src')",
    "/usr/share/doc": "import os; os.listdir('/usr/share/doc')",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_no_limit_counts_is_refused(runner, name):
    (report,) = runner.run(
        [(f"try:\n {REFUSED[name]}\nexcept OSError: print('ok')\nelse: print('done')", OK)]
    )
    assert report.outcome is Outcome.PASSED, report


def test_files_count_as_memory(runner):
    writes = "for number in range(60): open(f'/tmp/{number}', 'wb').write(bytes(4000000))"
    program = f"import time\n{writes}\ntime.sleep(60)"
    (report,) = runner.run([(program, OK)])
    assert (report.outcome, report.detail) == (Outcome.RUNTIME_ERROR, "memory limit of 160 MiB")


def test_a_working_directory_that_programs_would_see_is_refused(tmp_path):
    assert "/usr" not in _libraries(str(tmp_path))
    for folder in ("/usr/lib", "/usr/lib/project"):
        with pytest.raises(OSError, match=f"the working directory {folder} lies"):
            _libraries(folder)


def test_data_that_programs_would_see_are_refused(tmp_path):
    (tmp_path / "link.jsonl").symlink_to("/usr/lib/os-release")
    for path in ("/usr/lib/project/problems.jsonl", str(tmp_path / "link.jsonl")):
        with pytest.raises(
            ValueError, match=r"\[program\] sandbox: expected data outside /\S+, which programs see"
        ):
            check_sandbox(ProgramConfig(), [path])
    assert seen_through(str(tmp_path / "problems.jsonl")) is None
    assert seen_through("/usr/library/problems.jsonl") is None
