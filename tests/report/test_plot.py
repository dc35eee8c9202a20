"""Curves from metrics.jsonl: panels, points, and a valid PNG."""

import json
import math

import numpy as np
import pytest
from jsonl import write_jsonl
from matplotlib import image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from run_folders import write_stage

from fastrl.report.page.folder import report_data
from fastrl.report.plot import (
    COLORS,
    RunCurves,
    choose_panels,
    draw_panel,
    plot_run,
    read_runs,
    running_mean,
    text_curves,
)
from fastrl.report.sparkline import BARS, sparkline


def write_run(folder, lines):
    folder.mkdir(parents=True)
    write_jsonl(folder / "metrics.jsonl", lines)
    return folder


def run_lines(num_steps=20, shift=0.0):
    lines = [{"step": 0, "eval/avg@4": 0.5, "eval/avg@4/low": 0.4, "eval/avg@4/high": 0.6}]
    for step in range(1, num_steps + 1):
        reward = 1 - math.exp(-step / 8) + shift
        lines.append(
            {"step": step, "reward": reward, "rewards/answer/mean": reward / 2, "kl": None, "entropy": 0.3}
        )
    lines[-1] |= {
        "eval/avg@4": 0.8,
        "eval/avg@4/low": 0.7,
        "eval/avg@4/high": 0.9,
        "eval/pass@2": 0.9,
        "eval/pass@4": 1,
    }
    return lines


def test_a_png_of_several_runs(tmp_path):
    runs = [write_run(tmp_path / name, run_lines(shift=shift)) for name, shift in (("a", 0.0), ("b", 0.2))]
    path = plot_run(runs)
    assert path == runs[0] / "curves.png"
    pixels = image.imread(path)
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1000
    for color in COLORS[:2]:  # one a run
        assert (np.abs(pixels[..., :3] - to_rgb(color)).max(axis=-1) < 0.01).any()


def test_panels_are_evaluations_then_rewards_then_the_policy(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", run_lines())])
    # kl is null throughout, interval ends belong to their metric, and pass@2 is on the way to pass@4.
    assert choose_panels(runs) == ["eval/avg@4", "eval/pass@4", "rewards/answer/mean", "reward", "entropy"]


def test_panels_can_be_named(tmp_path):
    run = write_run(tmp_path / "a", run_lines())
    named = ["eval/pass@2", "eval/pass@4", "eval/avg@4"]
    assert choose_panels(read_runs([run]), named) == named
    assert text_curves([run], metrics=named).splitlines()[::2] == named
    path = plot_run([run], tmp_path / "named.png", named)
    assert image.imread(path).shape[0] < image.imread(plot_run([run])).shape[0]  # one row of panels, not two
    with pytest.raises(ValueError, match=r"\[plot\] metrics: expected some of .*'eval/avg@4'.*, got 'kl'"):
        plot_run([run], metrics=["reward", "kl"])


def test_a_stage_that_trains_nothing_is_drawn_by_what_it_logs(tmp_path):
    metrics = {"accuracy": 0.5, "solved": 1.0, "num_tokens": 9.0, "time/chunk_s": 2.0}
    lines = [{"step": 8 * k, **metrics} for k in (1, 2)]
    assert choose_panels([RunCurves("hard_set", lines)]) == ["accuracy", "solved", "num_tokens"]
    assert choose_panels([RunCurves("groups", [{"step": 1, "time/written_s": 2.0}])]) == ["time/written_s"]
    run = write_stage(tmp_path / "hard_set", {"stage": "hard_set"}, lines)
    assert plot_run([run]).is_file() and "accuracy\n" in text_curves([run])
    (run / "counts.json").write_text(json.dumps({"problems": 16, "hard": 3}))
    (stage,) = report_data(run, 0)["stages"]
    assert [tile["name"] for tile in stage["tiles"]] == ["problems", "hard"]
    assert stage["curves"]["panels"] == ["accuracy", "solved", "num_tokens"]


def test_faithfulness_is_drawn_as_points_where_it_was_measured():
    lines = [{"step": k, "reward": 0.5, "loss": 1.0} for k in range(6)]
    lines[0] |= {"faithfulness/forced": 0.2, "faithfulness/forced/low": 0.1, "faithfulness/forced/high": 0.3}
    lines[5] |= {"faithfulness/forced": 0.6, "faithfulness/forced/low": 0.5, "faithfulness/forced/high": 0.7}
    run = RunCurves("a", lines)
    assert choose_panels([run]) == ["faithfulness/forced", "reward", "loss"]
    axes = Figure().subplots()
    draw_panel(axes, [run], "faithfulness/forced")
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[0, 0.2], [5, 0.6]]]
    assert len(axes.collections) == 1  # the interval


def test_points_are_those_of_the_file(tmp_path):
    axes = Figure().subplots()
    run = RunCurves("a", [{"step": 0, "eval/avg@4": 0.5}, {"step": 2}, {"step": 4, "eval/avg@4": 0.75}])
    draw_panel(axes, [run], "eval/avg@4")
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.5], [4, 0.75]]
    axes = Figure().subplots()
    draw_panel(axes, [RunCurves("a", [{"step": i, "loss": float(i)} for i in range(7)])], "loss")
    assert axes.lines[0].get_ydata().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert axes.lines[1].get_ydata().tolist() == [0, 0.5, 1, 1.5, 2, 3, 4]  # means of up to five


def test_an_interval_is_drawn_where_it_is_known():
    def bands(lines):
        axes = Figure().subplots()
        draw_panel(axes, [RunCurves("a", lines)], "eval/avg@4")
        return len(axes.collections)

    assert bands(run_lines()) == 1
    assert bands([{"step": 0, "eval/avg@4": 0.5}]) == 0


def test_running_mean():
    assert running_mean([]) == []
    assert running_mean([1, 2, 3], window=2) == [1, 1.5, 2.5]


def test_a_torn_last_line_is_left_out(tmp_path):
    run = write_run(tmp_path / "a", run_lines())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "rew')
    assert len(read_runs([run])[0].lines) == 21


def test_runs_of_one_name_have_different_labels(tmp_path):
    runs = [write_run(tmp_path / parent / "run", run_lines()) for parent in ("x", "y")]
    assert [run.name for run in read_runs(runs)] == [str(run) for run in runs]


def test_text_curves_have_a_line_a_run(tmp_path):
    runs = [write_run(tmp_path / name, run_lines()) for name in ("a", "long-name")]
    lines = text_curves(runs).splitlines()
    at = lines.index("reward")
    assert lines[at + 1].split()[0] == "a" and lines[at + 2].split()[0] == "long-name"
    assert lines[at + 1].split()[1:4:2] == ["0.1175", "0.9179"]  # 1 - exp(-1/8), 1 - exp(-20/8)


@pytest.mark.parametrize(
    "lines, error, message",
    [
        (None, FileNotFoundError, "expected a run folder with metrics.jsonl"),
        ([], ValueError, "expected at least one logged step"),
        ([{"step": 1, "speed": None}], ValueError, r"metrics: expected at least one that is not null"),
    ],
)
def test_nothing_to_draw_is_refused(tmp_path, lines, error, message):
    folder = tmp_path / "run"
    if lines is not None:
        write_run(folder, lines)
    with pytest.raises(error, match=message):
        plot_run([folder])
    with pytest.raises(ValueError, match="at least one run folder"):
        plot_run([])


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BARS
    assert sparkline([3, 3, 3]) == BARS[0] * 3
    assert sparkline([]) == ""
    assert sparkline([None, 0, math.nan, 1]) == f" {BARS[0]} {BARS[7]}"
    assert sparkline([0, 2, 4, 4], width=2) == BARS[0] + BARS[7]  # means 1 and 4
    assert len(sparkline(list(range(1000)), width=37)) == 37
    assert sparkline([math.nan]) == " "
    with pytest.raises(ValueError, match="width"):
        sparkline([1], width=0)
