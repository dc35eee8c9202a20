"""Grading in processes: hanging ones are killed, dead ones replaced, all other pairs graded."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fastrl.grading import AnswerGrader, Verdict

TOWER = (r"\boxed{9^{9^{9^{9}}}}", r"\sqrt{2}")


def root(k: int, wrong: bool = False) -> tuple[str, str]:
    """1/sqrt(k) = sqrt(k)/k takes algebra."""
    return rf"\boxed{{\frac{{1}}{{\sqrt{{{k}}}}}}}", rf"\frac{{\sqrt{{{k + wrong}}}}}{{{k}}}"


@pytest.fixture(scope="module")
def grader():
    with AnswerGrader(num_workers=2, timeout_s=10.0) as shared:
        yield shared


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(grader: AnswerGrader) -> list[int]:
    return [worker._process.pid for worker in grader._workers]


def kill_twice(grader: AnswerGrader, first: int) -> None:
    """The worker, and the next one that is at work on the pair that the first was killed over."""
    os.killpg(first, 9)
    while True:
        time.sleep(0.05)
        workers = [worker for worker in list(grader._workers) if worker.task == 0]
        if workers and workers[0]._process.pid != first:
            os.killpg(workers[0]._process.pid, 9)
            return


def test_what_text_decides_starts_no_process():
    with AnswerGrader() as grader:
        verdicts = grader.grade(
            [(r"\boxed{5}", "5"), (r"\boxed{5}", "6"), ("no idea", "5"), (r"\boxed{$x$.}", "x")]
        )
        assert verdicts == [Verdict.CORRECT, Verdict.WRONG, Verdict.NO_ANSWER, Verdict.CORRECT]
        assert grader.num_compared == 0
        assert pids(grader) == []
        assert grader.counts == {Verdict.CORRECT: 2, Verdict.WRONG: 1, Verdict.NO_ANSWER: 1}
        assert grader.grade([]) == []


@pytest.mark.parametrize(
    ("completion", "gold", "verdict"),
    [
        (*root(2), Verdict.CORRECT),
        (*root(2, wrong=True), Verdict.WRONG),
        (r"\boxed{x=5}", "5", Verdict.CORRECT),
        (r"\boxed{(-\infty, 0]}", r"$(-\infty , 0]$", Verdict.CORRECT),
        (r"\boxed{(-\infty, 0)}", r"$(-\infty , 0]$", Verdict.WRONG),
        (r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", Verdict.CORRECT),
        (r"\boxed{Evelyn}", r"\text{Evelyn}", Verdict.CORRECT),
        (r"\boxed{3, 5}", "5, 3", Verdict.CORRECT),
        (r"\boxed{\frac{1}{(}", "5", Verdict.NO_ANSWER),
        (r"\boxed{2 if isosceles, otherwise (}", "5", Verdict.WRONG),
        (r"\boxed{\sqrt{}^{}_}", "5", Verdict.UNREADABLE),
    ],
)
def test_algebra(grader, completion, gold, verdict):
    assert grader.grade([(completion, gold)]) == [verdict]


def test_equal_pairs_are_compared_once(grader):
    before = grader.num_compared
    assert grader.grade([root(3)] * 20) == [Verdict.CORRECT] * 20
    assert grader.num_compared == before + 1


def test_the_gold_of_one_pair_never_grades_another(grader):
    pairs = [root(k, wrong=bool(k % 3)) for k in range(2, 32)]
    assert grader.grade(pairs) == [Verdict.WRONG if k % 3 else Verdict.CORRECT for k in range(2, 32)]


def test_a_hanging_pair_is_killed_and_the_rest_is_graded():
    with AnswerGrader(num_workers=1, timeout_s=1.5) as grader:
        grader.grade([root(2)])
        before = pids(grader)
        start = time.monotonic()
        verdicts = grader.grade([root(3), TOWER, *[root(k) for k in range(5, 9)]])
        assert verdicts == [Verdict.CORRECT, Verdict.TIMEOUT] + [Verdict.CORRECT] * 4
        assert time.monotonic() - start > 1.5
        assert pids(grader) == before  # math-verify isn't loaded again
        assert grader.grade([root(10)]) == [Verdict.CORRECT]
        assert grader.counts == {Verdict.CORRECT: 7, Verdict.TIMEOUT: 1}


def test_workers_that_die_or_are_closed_are_replaced():
    with AnswerGrader(num_workers=1, timeout_s=30.0) as grader:
        assert grader.grade([root(2)]) == [Verdict.CORRECT]
        (pid,) = pids(grader)
        killer = threading.Timer(0.5, kill_twice, (grader, pid))
        killer.start()
        # the first death is forgiven, the second one is this pair's
        assert grader.grade([TOWER, root(3)]) == [Verdict.ERROR, Verdict.CORRECT]
        killer.join()
        assert grader.grade([root(7)]) == [Verdict.CORRECT]
        (pid,) = pids(grader)
        os.killpg(pid, 9)
        time.sleep(0.1)
        assert grader.grade([root(5)]) == [Verdict.CORRECT]
        (pid,) = pids(grader)
        grader.close()
        assert not running(pid)
        assert grader.grade([root(6)]) == [Verdict.CORRECT]
        (pid,) = pids(grader)
    assert not running(pid)


def test_many_threads(grader):
    found: dict[int, list[Verdict]] = {}
    threads = [
        threading.Thread(target=lambda k=k: found.update({k: grader.grade([root(k), root(k, wrong=True)])}))
        for k in range(40, 44)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: [Verdict.CORRECT, Verdict.WRONG] for k in range(40, 44)}


def test_a_worker_outlives_its_parent_by_no_more_than_the_time_limit():
    script = (
        "import threading\n"
        "from fastrl.grading import AnswerGrader\n"
        "grader = AnswerGrader(num_workers=1, timeout_s=1.5)\n"
        rf"grader.grade([({root(2)[0]!r}, {root(2)[1]!r})])" + "\n"
        "print(grader._workers[0]._process.pid, flush=True)\n"
        rf"grader.grade([({TOWER[0]!r}, {TOWER[1]!r})])"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    assert running(worker)
    deadline = time.monotonic() + 5.0
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(worker)


def test_workers_import_no_torch():
    script = (
        "import sys\n"
        "from fastrl.grading.worker import load_comparison\n"
        "load_comparison()\n"
        "print('math_verify' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_a_worker_that_cannot_load_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('gone')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        AnswerGrader(num_workers=1) as grader,
        pytest.raises(
            RuntimeError, match=r"\[answer\] worker: expected math-verify loaded .*, got exit code 1"
        ),
    ):
        grader.grade([root(2)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_workers": 0}, "num_workers: expected >= 1, got 0"),
        ({"timeout_s": 0}, "timeout_s: expected > 0, got 0"),
        ({"batch_s": 0}, "batch_s: expected > 0, got 0"),
        ({"unevaluated": "never"}, "unevaluated: expected by_level, unpaid, paid, got 'never'"),
    ],
)
def test_options(options, says):
    with pytest.raises(ValueError, match=says):
        AnswerGrader(**options)


def test_a_worker_whose_parent_was_killed_says_nothing():
    """It was loading, and nobody is left who would read that it is ready."""
    command = [sys.executable, "-m", "fastrl.grading.worker", "5"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as worker:
        worker.stdout.close()
        worker.stdin.close()
        assert worker.stderr.read() == b""
        assert worker.wait() == -signal.SIGPIPE


@pytest.mark.parametrize("extraction", ["boxed", "boxed_after_thought", "phrase", "last_number"])
def test_a_completion_that_states_an_answer_is_read_by_every_extraction(extraction):
    with AnswerGrader(num_workers=1, extraction=extraction) as own:
        assert own.stated(own.stating("7")) == "7"
        assert own.grade([(own.stating("7"), "7"), (own.stating("8"), "7")]) == [
            Verdict.CORRECT,
            Verdict.WRONG,
        ]
        bare = own.grade([(r"\boxed{7}", "7")])
    assert bare == [Verdict.NO_ANSWER if extraction == "boxed_after_thought" else Verdict.CORRECT]
