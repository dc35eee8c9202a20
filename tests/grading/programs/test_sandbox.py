"""Hostile programs: the outcome of each, and that the next program runs unaffected."""

import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxed import descendants, needs_sandbox

from fastrl.config.executor import ProgramConfig
from fastrl.grading.programs import sandbox_kernel
from fastrl.grading.programs.runner import Outcome, ProgramRunner, ProgramTests
from fastrl.tools.doctor.machine import sandbox_line

OK = ProgramTests(cases=(("", "ok"),))
CONFIG = ProgramConfig(num_workers=1, timeout_s=2.0, memory_mib=160, max_processes=8, output_kib=64)


pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def runner():
    with ProgramRunner(CONFIG) as shared:
        shared.run([("print('ok')", OK)])
        yield shared


@pytest.fixture(scope="module")
def patient_runner():
    """For programs that end by another limit than time: a busy machine may take long to get there."""
    with ProgramRunner(replace(CONFIG, timeout_s=60.0)) as shared:
        shared.run([("print('ok')", OK)])
        yield shared


def only_worker_left(runner: ProgramRunner) -> bool:
    """The launcher's one child, process 1 of the sandbox, has no children."""
    (worker,) = runner._workers
    return len(descendants(worker._process.pid)) == 1


SAYS_WHY = """
try:
    {}
except {} as error:
    print("refused", error)
else:
    print("ok")
"""


def refused(statement: str, kinds: str = "OSError") -> str:
    return SAYS_WHY.format(statement.replace("\n", "\n    "), kinds)


DETACHED = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(3):
                try: os.close(number)
                except OSError: pass
            time.sleep(600)
        os._exit(0)
    os.wait()
print('ok')
"""
FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
MEMORY_TREE = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        block = bytearray(80 << 20)
        for place in range(0, len(block), 4096):
            block[place] = 1
        time.sleep(60)
time.sleep(60)
"""
SHARED_MEMORY = """
import mmap, os, time
blocks = []
for _ in range(4):
    if os.fork() == 0:
        block = mmap.mmap(-1, 80 << 20)
        for place in range(0, len(block), 4096):
            block[place] = 1
        time.sleep(60)
time.sleep(60)
"""
THREADS = """
import threading, time
for _ in range(100):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""
SIGNALS = """
import os, signal
for target in (1, -1, 0, os.getppid()):
    for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
        try: os.kill(target, number)
        except OSError: pass
print('ok')
"""
ALL_DESCRIPTORS = """
import os
for number in range(3, 64):
    try: os.write(number, b'{"outcome": "passed", "detail": ""}')
    except OSError: pass
raise ValueError('still wrong')
"""
HOSTILE = {
    "endless loop": ("while True: pass", Outcome.TIMEOUT, "time limit of 2 s"),
    "endless sleep with closed files": (
        "import os, time\nfor n in range(64):\n try: os.close(n)\n except OSError: pass\ntime.sleep(600)",
        Outcome.TIMEOUT, "time limit",
    ),
    "ignores every signal": (
        "import signal, time\nfor n in range(1, 32):\n try: signal.signal(n, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass\ntime.sleep(600)",
        Outcome.TIMEOUT, "time limit",
    ),
    "10 GB": ("block = bytearray(10 << 30)", Outcome.RUNTIME_ERROR, "memory limit of 160 MiB"),
    "10 GB bit by bit": ("a = []\nwhile 1: a.append(bytes(1 << 20))", Outcome.RUNTIME_ERROR, "memory limit"),
    "memory of a tree": (MEMORY_TREE, Outcome.RUNTIME_ERROR, "memory limit of 160 MiB"),
    "shared memory of a tree": (SHARED_MEMORY, Outcome.RUNTIME_ERROR, "memory limit of 160 MiB"),
    "fork bomb": (FORK_BOMB, Outcome.TIMEOUT, "time limit"),
    "fork bomb that says so": ("import os\nwhile 1: os.fork()", Outcome.RUNTIME_ERROR, "process limit of 8"),
    "threads": (THREADS, Outcome.RUNTIME_ERROR, "process limit of 8"),
    "endless output": ("while True: print('x' * 1000)", Outcome.RUNTIME_ERROR, "output limit of 64 KiB"),
    "endless errors": (
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        Outcome.RUNTIME_ERROR, "output limit of 64 KiB",
    ),
    "huge file": (
        "with open('/tmp/huge', 'wb') as f:\n while True: f.write(bytes(1 << 16))",
        Outcome.RUNTIME_ERROR, "file limit of 64 KiB",
    ),
    "sparse file": ("open('/tmp/a', 'wb').truncate(1 << 40)", Outcome.RUNTIME_ERROR, "file limit of 64 KiB"),
    "many files": (
        "for i in range(10000): open(f'/tmp/{i}', 'w').write('x' * 60000)",
        Outcome.RUNTIME_ERROR, "No space left on device",
    ),
    "deep recursion": ("def f(n): return f(n + 1)\nf(0)", Outcome.RUNTIME_ERROR, "RecursionError"),
    "stack overflow": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\nclass A:\n"
        " def __repr__(self): return repr(self)\nrepr(A())",
        Outcome.RUNTIME_ERROR, "",
    ),
    "deep nesting": ("(" * 100000, Outcome.COMPILE_ERROR, ""),
    "null bytes": ("print('ok')\0", Outcome.COMPILE_ERROR, "null bytes"),
    "exit code": ("print('ok')\nimport sys\nsys.exit(3)", Outcome.RUNTIME_ERROR, "exit code 3"),
    "kills itself in C": ("import ctypes\nctypes.string_at(0)", Outcome.RUNTIME_ERROR, "SIGSEGV"),
    "writes to all descriptors": (ALL_DESCRIPTORS, Outcome.RUNTIME_ERROR, "ValueError: still wrong"),
    "signals to everybody": (SIGNALS, Outcome.PASSED, ""),
    "children that detach": (DETACHED, Outcome.PASSED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_programs_end_and_the_next_one_runs(runner, patient_runner, name):
    program, outcome, says = HOSTILE[name]
    runner = runner if outcome is Outcome.TIMEOUT else patient_runner
    worker = list(runner._workers)
    (report,) = runner.run([(program, OK)])  # it would take ten minutes, or for ever
    assert (report.outcome, says in report.detail) == (outcome, True), report
    assert only_worker_left(runner)
    (after,) = runner.run(
        [("import os\nprint('ok' if os.listdir('/tmp') == [] else os.listdir('/tmp'))", OK)]
    )
    assert after.outcome is Outcome.PASSED, after  # within its time limit
    assert runner._workers == worker


REFUSED = {
    "/etc/shadow": "open('/etc/shadow').read()",
    "/etc/passwd": "open('/etc/passwd').read()",
    "the home": f"import os; os.listdir({str(Path.home() / '.cache')!r})",
    "the repository": f"open({__file__!r}).read()",
    "processes": "import os; os.listdir('/proc/1')",
    "writing to the root": "open('/here', 'w')",
    "writing to libraries": f"open({os.__file__!r}, 'a')",
    "a new mode of libraries": f"import os; os.chmod({os.__file__!r}, 0o777)",
    "writing to /dev": "open('/dev/new', 'w')",
    "internet sockets": "import socket; socket.socket()",
    "names of hosts": "import socket; socket.gethostbyname('example.com')",
    "sockets of the virtual machine": "import socket; socket.socket(40)",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK)",
    "memory files": "import os; os.memfd_create('x')",
    "more users": "import os; os.setuid(0)",
    "a new root": "import os; os.chroot('/tmp')",
    "device files": "import os, stat; os.mknod('/tmp/sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
    "higher limits": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (999, 999))",
    "priorities": "import os; os.setpriority(os.PRIO_PROCESS, 0, -5)",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused(runner, name):
    (report,) = runner.run([(refused(REFUSED[name], "(OSError, ValueError)"), OK)])
    assert report.outcome is Outcome.WRONG_ANSWER and "got 'refused'" in report.detail, report


SYSTEM_CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found = []
for name, arguments in (
    ("unshare", (0x10000000,)), ("unshare", (0x20000,)), ("setns", (0, 0)), ("ptrace", (0, 0, 0, 0)),
    ("mount", (b"none", b"/tmp", b"tmpfs", 0, None)), ("shmget", (0, 4096, 0o1600)),
    ("personality", (0x40000,)),
):
    result = getattr(libc, name)(*arguments)
    found.append(f"{name}:{ctypes.get_errno() if result < 0 else 'done'}")
print(*found)
"""


def test_system_calls_that_are_refused(runner):
    names = "unshare", "unshare", "setns", "ptrace", "mount", "shmget", "personality"
    tests = ProgramTests(cases=(("", " ".join(f"{name}:1" for name in names)),))
    (report,) = runner.run([(SYSTEM_CALLS, tests)])
    assert report.outcome is Outcome.PASSED, report


def test_clone_makes_no_user_namespace(runner):
    number = sandbox_kernel._numbers()["clone"]
    program = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"print(libc.syscall({number}, 0x10000000 | 17, 0, 0, 0, 0), ctypes.get_errno())"
    )
    (report,) = runner.run([(program, ProgramTests(cases=(("", "-1 1"),)))])
    assert report.outcome is Outcome.PASSED, report


def test_programs_can_not_reach_the_host(runner):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        statement = f"import socket; socket.create_connection(('127.0.0.1', {port}), 0.5)"
        (report,) = runner.run([(refused(statement), OK)])
        assert "got 'refused'" in report.detail
        with pytest.raises(TimeoutError):
            listener.accept()


def test_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "secret-4711")
    with ProgramRunner(CONFIG) as runner:
        tests = ProgramTests(cases=(("", "[] []"),))
        program = (
            "import os, ctypes\n"
            "libc = ctypes.CDLL(None)\n"
            "libc.getenv.restype = ctypes.c_char_p\n"
            "print(list(os.environ), [n for n in ('API_TOKEN', 'HOME', 'PATH') if libc.getenv(n.encode())])"
        )
        (report,) = runner.run([(program, tests)])
        assert report.outcome is Outcome.PASSED, report


def test_programs_see_nothing_of_each_other(runner):
    leave = (
        "open('/tmp/left', 'w').write('x')\nimport builtins, math\nbuiltins.left = math.left = 1\nprint('ok')"
    )
    look = (
        "import os, builtins, math\n"
        "print('ok' if not os.path.exists('/tmp/left') and not hasattr(builtins, 'left')"
        " and not hasattr(math, 'left') else 'left')"
    )
    reports = runner.run([(leave, OK), (look, OK)])
    assert [report.outcome for report in reports] == [Outcome.PASSED] * 2, reports


def test_what_programs_may_do():
    program = """
import multiprocessing, os, subprocess, sys, tempfile, threading
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("a"); file.seek(0)
    print(file.read())
print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout)
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(len(os.urandom(8)), os.path.exists("/proc/self"))
"""
    tests = ProgramTests(cases=(("", "a 42 [1, 2] thread 8 False"),))
    with ProgramRunner(ProgramConfig(num_workers=1, timeout_s=20.0)) as runner:
        (report,) = runner.run([(program, tests)])
    assert report.outcome is Outcome.PASSED, report


def test_nothing_outlives_a_closed_runner_or_a_killed_worker():
    runner = ProgramRunner(CONFIG)
    runner.run([(DETACHED, OK)])
    (worker,) = runner._workers
    pid = worker._process.pid
    assert len(descendants(pid)) == 1
    (inside,) = descendants(pid)
    runner.close()
    assert not Path(f"/proc/{inside}").exists()
    runner.run([("print('ok')", OK)])
    (worker,) = runner._workers
    (inside,) = descendants(worker._process.pid)
    os.kill(inside, 9)
    (report,) = runner.run([("print('ok')", OK)])
    assert report.outcome in (Outcome.PASSED, Outcome.SANDBOX_ERROR)
    (report,) = runner.run([("print('ok')", OK)])
    assert report.outcome is Outcome.PASSED
    runner.close()


def test_a_sandbox_ends_with_its_trainer():
    trainer = os.fork()
    if not trainer:
        runner = ProgramRunner(ProgramConfig(num_workers=1, timeout_s=1000))
        runner.run([("while True: pass", OK)])
        os._exit(0)
    left, deadline = [], time.monotonic() + 60.0
    while len(left) < 3 and time.monotonic() < deadline:
        left = descendants(trainer)
    assert len(left) == 3  # launcher, worker, program
    os.kill(trainer, 9)
    os.waitpid(trainer, 0)
    deadline = time.monotonic() + 60.0
    while any(Path(f"/proc/{pid}").exists() for pid in left) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in left if Path(f"/proc/{pid}").exists()] == []


WITHOUT_PRIVILEGES = """
import runpy
from fastrl.grading.programs import sandbox_kernel
sandbox_kernel.drop_privileges()  # unshare is refused from here on
runpy.run_module("fastrl.grading.programs.worker", run_name="__main__")
"""


def test_without_a_sandbox_nothing_runs(monkeypatch):
    start = subprocess.Popen

    def unprivileged(command, **options):
        assert command[3:5] == ["-m", "fastrl.grading.programs.worker"]
        return start([*command[:3], "-c", WITHOUT_PRIVILEGES, *command[5:]], **options)

    monkeypatch.setattr("fastrl.grading.programs.process.subprocess.Popen", unprivileged)
    says = (
        "[program] run_unsandboxed_code: expected a sandbox for programs that a model wrote (Linux, user "
        "namespaces), or true, which runs them with all your rights, got false and no sandbox: [Errno 1] "
        "unshare: Operation not permitted"
    )
    with ProgramRunner(ProgramConfig()) as runner:
        for _ in range(2):
            with pytest.raises(ValueError, match=re.escape(says)):
                runner.run([("print('ok')", OK), ("print('no')", OK)])
            assert runner._workers == []
        assert runner.counts == {}


def test_programs_run_unsandboxed_only_with_the_option():
    config = ProgramConfig(
        num_workers=1, timeout_s=1.0, memory_mib=256, output_kib=64, run_unsandboxed_code=True
    )
    with ProgramRunner(config) as runner:
        programs = [
            f"import os\nprint('ok' if os.getuid() == {os.getuid()} and os.listdir('.') == [] else '')",
            "import os, time\nif os.fork(): time.sleep(600)\ntime.sleep(600)",
            "block = bytearray(1 << 30)",
            "while True: print('x' * 1000)",
            "open('left', 'w')\nprint('ok')",
            "import os\nprint('ok' if os.listdir('.') == [] and not os.environ else os.environ)",
        ]
        reports = runner.run([(program, OK) for program in programs])
        assert [report.outcome.value for report in reports] == [
            "passed", "timeout", "runtime_error", "runtime_error", "passed", "passed",
        ]  # fmt: skip
        (worker,) = runner._workers
        assert descendants(worker._process.pid) == []


SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(SYSTEM_PYTHON, os.X_OK), reason="needs root and a Python for all users"
)
def test_users_who_are_not_root_have_the_same_sandbox(monkeypatch):
    start = subprocess.Popen

    def as_user(command, **options):
        return start([SYSTEM_PYTHON, *command[1:]], user=12345, group=12345, extra_groups=[], **options)

    monkeypatch.setattr("fastrl.grading.programs.process.subprocess.Popen", as_user)
    count = (
        "import os, time\nn = 1\ntry:\n while True:\n"
        "  os.fork() or time.sleep(9)\n  n += 1\nexcept OSError: print(n)"
    )
    with ProgramRunner(CONFIG) as runner:
        programs = {
            "import os\nprint(os.getuid())": "12345",
            count: "8",
            "import os\nos.chmod('/tmp', 0)\nprint('done')": "done",
            "open('/tmp/file', 'w')\nprint('written')": "written",
            refused("open('/etc/passwd')"): "refused [Errno 2] No such file or directory: '/etc/passwd'",
            refused("import os; os.kill(1, 9); os.kill(-1, 9)"): "refused [Errno 3] No such process",
        }
        reports = runner.run([(text, ProgramTests(cases=(("", said),))) for text, said in programs.items()])
        assert [report.outcome for report in reports] == [Outcome.PASSED] * len(programs), reports


def test_the_worker_imports_no_torch_and_no_configuration():
    script = (
        "import sys\nimport fastrl.grading.programs.worker\n"
        "print([name for name in ('torch', 'numpy', 'fastrl.config') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_doctor_says_what_is_missing(monkeypatch):
    assert sandbox_line().status == "ok"
    monkeypatch.setattr(
        "fastrl.grading.programs.runner.sandbox_missing", lambda: "unshare: Operation not permitted"
    )
    line = sandbox_line()
    assert (line.status, line.finding) == ("warn", "none: unshare: Operation not permitted")
