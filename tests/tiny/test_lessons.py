"""Progress of the tiny worlds' trainings, from folders by hand: running, ended, killed."""

import os
import shutil

from jsonl import write_jsonl

from fastrl.report.pace import Activity
from fastrl.tiny.lessons import Lessons


def lesson(folder, steps):
    folder.mkdir(parents=True)
    (folder / "sft.yaml").write_text(f"stage: sft\ntrain:\n  num_steps: {steps}\n")
    return folder


def test_lessons_are_summed_until_their_folders_go(tmp_path):
    dead = lesson(tmp_path / ".old-x1/.generator", 500)
    os.utime(dead, (1, 1))
    lessons = Lessons(tmp_path)
    assert lessons() is None
    first, second = (lesson(tmp_path / f".world-ab/.{name}", 40) for name in ("generator", "receiver"))
    assert lessons() == Activity("training generator, receiver", 0, 80)
    write_jsonl(first / "run/metrics.jsonl", [{"step": 1}, {"step": 2}])
    with (first / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 3')
    assert lessons() == Activity("training generator, receiver", 2, 80)
    shutil.rmtree(first)
    assert lessons() == Activity("training receiver", 40, 80)
    shutil.rmtree(second)
    assert lessons() == Activity("", 80, 80)
