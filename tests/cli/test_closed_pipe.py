"""`fastrl ... | head`: a closed output pipe ends the command without a traceback."""

import os
import subprocess
import sys

import pytest
import yaml
from jsonl import write_jsonl

from fastrl.runtime.errors import exit_code

CLOSED = 141  # what a shell reports of a program that SIGPIPE has ended


def run_unread(*words, cwd, also_stderr=False):
    """Run python with these words; nobody reads its standard output."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        return subprocess.run(
            [sys.executable, *words],
            stdout=write_end,
            stderr=write_end if also_stderr else subprocess.PIPE,
            cwd=cwd,
            timeout=120,
        )
    finally:
        os.close(write_end)


@pytest.fixture
def recipe(tmp_path, checkpoints):
    rows = [{"question": f"{a}+1=?", "answer": str(a + 1)} for a in range(4)]
    write_jsonl(tmp_path / "problems.jsonl", rows)
    config = {
        "stage": "rl",
        "run": {"dir": str(tmp_path / "run"), "device": "cpu"},
        "model": {"path": str(checkpoints["qwen3"])},
        "data": {"path": str(tmp_path / "problems.jsonl")},
        "rollout": {"num_prompts": 2, "group_size": 2, "max_new_tokens": 4},
        "train": {"num_steps": 1},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("words", [["--help"], ["train", "rltr-tiny", "--help"]], ids=" ".join)
def test_a_command_whose_reader_has_gone_ends_quietly(words, tmp_path):
    """The first fits a buffer and is written when the program ends; the second is written on the way."""
    done = run_unread("-m", "fastrl.cli.main", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (CLOSED, b"")


def test_tables_that_rich_draws_end_quietly(tmp_path):
    code = (
        "import sys\n"
        "from rich.console import Console\n"
        "from fastrl.runtime.errors import exit_code\n"
        "sys.exit(exit_code(lambda: Console().print('a line\\n' * 20_000) or 0))\n"
    )
    done = run_unread("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (CLOSED, b"")


@pytest.mark.process
def test_training_writes_its_checkpoint_and_ends_quietly(recipe, tmp_path):
    done = run_unread("-m", "fastrl.train", str(recipe), cwd=tmp_path)
    assert done.returncode == CLOSED
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr
    assert b"step 1/1" in done.stderr
    assert (tmp_path / "run/checkpoints/step-000001").is_dir()


def test_with_nobody_to_read_even_the_errors_the_code_is_the_same(tmp_path):
    assert run_unread("-m", "fastrl.cli.main", "--help", cwd=tmp_path, also_stderr=True).returncode == CLOSED


def test_a_pipe_that_is_not_the_output_keeps_its_traceback():
    def broken():
        read_end, write_end = os.pipe()
        os.close(read_end)
        try:
            os.write(write_end, b"x")
        finally:
            os.close(write_end)
        return 0

    with pytest.raises(BrokenPipeError):
        exit_code(broken)
