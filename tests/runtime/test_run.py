import json
from dataclasses import replace

import pytest

from fastrl.config import RlConfig, RunConfig, TrainConfig
from fastrl.runtime.run import Run, read_metrics


def config(folder, **changes) -> RlConfig:
    return replace(RlConfig(run=RunConfig(dir=str(folder))), **changes)


def test_start_writes_config_and_environment_before_anything_runs(tmp_path):
    Run.start(config(tmp_path / "run"))
    assert "num_prompts: 16" in (tmp_path / "run/config.yaml").read_text()
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["packages"]["torch"] and environment["threads"] >= 1


def test_the_same_run_is_opened_again_and_another_is_refused(tmp_path):
    Run.start(config(tmp_path / "run"))
    Run.start(config(tmp_path / "run"))
    Run.start(config(tmp_path / "run", train=TrainConfig(num_steps=7)))
    with pytest.raises(ValueError, match=r"\[run\] dir: .* train.learning_rate differ"):
        Run.start(config(tmp_path / "run", train=TrainConfig(learning_rate=0.5)))


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="not empty"):
        Run.start(config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_needs_a_folder():
    with pytest.raises(ValueError, match=r"\[run\] dir"):
        Run.start(RlConfig())


def test_metrics_lines_and_phase_times(tmp_path):
    run = Run.start(config(tmp_path / "run"))
    with run.time("rollout"):
        pass
    run.log(1, {"reward": 0.5, "kl": float("nan")})
    run.log(2, {"reward": 0.75})
    first, second = read_metrics(run.metrics_file)
    assert first["reward"] == 0.5 and first["kl"] is None and first["time/rollout_s"] >= 0
    assert second == {"step": 2, "reward": 0.75}


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path):
    run = Run.start(config(tmp_path / "run"))
    for step in range(4):
        run.log(step, {"reward": step / 10})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4, "rew')
    run.rewind(2)
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [0, 1, 2]
    run.rewind(-1)
    assert run.metrics_file.read_text() == ""


def test_a_rank_that_does_not_write_leaves_nothing(tmp_path):
    run = Run.start(config(tmp_path / "run"), writes=False)
    run.log(1, {"reward": 1.0})
    run.rewind(0)
    run.log_completions(1, [])
    assert not (tmp_path / "run").exists()
