"""The watchdog ends a stuck process, in Python or outside of it, and reports where it is stuck."""

from __future__ import annotations

import subprocess
import sys

import pytest
from places import ROOT

from fastrl.config import RunConfig
from fastrl.runtime.watchdog import HANG_CODE


def ended(script: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


def test_the_phase_the_rank_and_all_stacks_are_reported():
    code, said = ended(
        "import threading, time\n"
        "from fastrl.runtime.watchdog import Watchdog\n"
        "def beside(): time.sleep(100)\n"
        "def stuck(): time.sleep(100)\n"
        "dog = Watchdog(0.5, rank=3)\n"
        "threading.Thread(target=beside).start()\n"
        "dog.enter('reward')\n"
        "dog.enter('update')\n"
        "stuck()"
    )
    assert code == HANG_CODE == 124
    assert "hang_timeout_s: phase 'update' on rank 3 has taken more than 0.5 s" in said
    assert "in stuck" in said and "in beside" in said


def test_a_thread_that_lets_no_other_run_is_ended_too():
    """A call that keeps the interpreter's lock: only the system's timer can end it."""
    code, said = ended(
        "import ctypes\n"
        "from fastrl.runtime import watchdog\n"
        "watchdog.GRACE_S = 0.3\n"
        "dog = watchdog.Watchdog(0.2)\n"
        "def stuck(): ctypes.PyDLL(None).sleep(50)\n"
        "stuck()"
    )
    assert code == 1 and "Timeout" in said and "in stuck" in said


def test_phases_that_end_in_time_raise_nothing():
    """In a process of its own: a machine too busy to wake it in two seconds would end this one."""
    code, said = ended(
        "import time\n"
        "from fastrl.runtime.watchdog import Watchdog\n"
        "dog = Watchdog(2.0)\n"
        "for _ in range(6):\n"
        "    dog.enter('rollout')\n"
        "    time.sleep(0.4)\n"
        "dog.close()\n"
        "time.sleep(2.1)"
    )
    assert (code, said) == (0, "")


def test_no_limit_starts_no_thread():
    code, said = ended(
        "import threading, time\n"
        "from fastrl.runtime.watchdog import Watchdog\n"
        "dog = Watchdog(0.0)\n"
        "dog.enter('rollout')\n"
        "assert threading.active_count() == 1\n"
        "time.sleep(0.2)\n"
        "dog.close()"
    )
    assert (code, said) == (0, "")


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match=r"\[run\] hang_timeout_s: expected >= 0, got -1"):
        RunConfig(hang_timeout_s=-1)
