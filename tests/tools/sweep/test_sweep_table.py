"""A sweep's table from curves made by hand."""

import csv

import pytest

from fastrl.report.plot import RunCurves
from fastrl.tools.sweep.numbers import headline_metrics, quantities
from fastrl.tools.sweep.table import (
    Combination,
    short_values,
    sweep_table,
    table_cells,
    table_text,
    write_csv,
    write_markdown,
)


def run(name="run", rewards=(), evals=None, alarms=None, metric="eval/avg@4"):
    """A run with rewards at steps 1 ... T, evaluations at those of `evals`, alarms from a step on."""
    lines = []
    for step in range(len(rewards) + 1):
        line = {"step": step} | ({"reward": rewards[step - 1]} if step else {})
        if step in (evals or {}):
            line[metric] = evals[step]
        lines.append(
            line | {f"alarm/{alarm}": float(step >= first) for alarm, first in (alarms or {}).items()}
        )
    return RunCurves(name, lines)


def combination(runs, planned=None, failures=(), **values):
    return Combination(
        values={name.replace("__", "."): value for name, value in values.items()},
        runs=runs,
        planned=len(runs) if planned is None else planned,
        failures=list(failures),
    )


def rising(best_at, length=60, best=1.0):
    """0.5 until the best, which is reached at one update and stays just below it."""
    return [
        0.5 if step < best_at else best if step == best_at else 0.98 * best for step in range(1, length + 1)
    ]


def test_a_runs_numbers_by_hand():
    evals = {0: 0.2, 4: 0.5, 8: 0.4, 60: 0.6}
    found = quantities(
        run(rewards=rising(7), evals=evals, alarms={"collapse": 12}), ["eval/avg@4", "reward", "kl"]
    )
    # t_sat = 7 of 10 that may be (60 - 50); nearest evaluation 8
    assert found["steps"] == 60
    assert (found["eval/avg@4 start"], found["eval/avg@4 end"]) == (0.2, 0.6)
    assert (found["reward start"], found["reward end"]) == (0.5, 0.98)
    assert found["t_sat"] == 7
    assert found["eval/avg@4 gain until t_sat"] == pytest.approx(0.2)
    assert found["eval/avg@4 gain after"] == pytest.approx(0.2)
    assert found["eval/avg@4 gain after as printed"] == pytest.approx(0.2)
    # the moving average needs nine updates more, and only the first ten count
    assert "t_sat (EMA)" not in found
    assert found["alarm/collapse at"] == 12
    assert not any(name.startswith("kl") for name in found)


def test_gains_after_are_negative_strictly_and_zero_as_printed():
    found = quantities(run(rewards=rising(3), evals={0: 0.2, 3: 0.5, 60: 0.4}), ["eval/avg@4"])
    assert found["eval/avg@4 gain after"] == pytest.approx(-0.1)
    assert found["eval/avg@4 gain after as printed"] == 0


def test_t_sat_of_the_moving_average():
    # e_k = 0.9 * (1 - (2/3)^(k - 1)) is at 99 % of its end where (2/3)^(k - 1) <= 0.01, from k = 13 on
    found = quantities(
        run(rewards=[0.0] + [0.9] * 69, evals={0: 0.1, 2: 0.3, 13: 0.6, 70: 0.5}), ["eval/avg@4"]
    )
    assert (found["t_sat"], found["t_sat (EMA)"]) == (2, 13)
    assert found["eval/avg@4 gain until t_sat"] == pytest.approx(0.2)
    assert found["eval/avg@4 gain until t_sat (EMA)"] == pytest.approx(0.5)
    assert found["eval/avg@4 gain after (EMA)"] == pytest.approx(-0.1)


@pytest.mark.parametrize("rewards", [[1.0] * 50, [-1.0] * 60, []])
def test_no_saturation_where_it_is_not_defined(rewards):
    assert "t_sat" not in quantities(run(rewards=rewards, evals={0: 0.5}), ["eval/avg@4"])


def test_a_reward_that_is_not_known_moves_no_other_step():
    rewards = rising(4)
    rewards[1] = None
    assert quantities(run(rewards=rewards), [])["t_sat"] == 4


def test_a_run_that_logged_nothing_has_no_numbers():
    assert quantities(RunCurves("empty", []), ["reward"]) == {}


def test_means_and_intervals_over_seeds():
    runs = [run(rewards=[0.0, value]) for value in (0.25, 0.75)]
    failed = combination([run(rewards=[0.0, 0.5])], planned=2, failures=["seed 1, exit code 2: no"], a="2")
    table = sweep_table([combination(runs, a="1"), failed], ["reward"])
    assert table.columns == ["steps", "reward start", "reward end"]
    header, rows = table_cells(table)
    assert header == ["a", "runs", "steps", "reward start", "reward end", "failed"]
    # 0.5 +- 12.7062 * 0.25
    assert rows[0] == ["1", "2", "2", "0", "0.5 [-2.677, 3.677]", ""]
    assert rows[1] == ["2", "1 of 2", "2", "0", "0.5", "seed 1, exit code 2: no"]


def test_a_number_of_fewer_runs_says_so():
    runs = [run(rewards=[1.0], alarms={"collapse": first}) for first in (1, 9)]
    table = sweep_table([combination(runs, a="1")], [])
    assert table_cells(table)[1] == [["1", "2", "1", "1 n=1"]]


def test_files(tmp_path):
    each = [
        combination([run(rewards=[0.0, 1 / 3])], a="x|y", b__c="dir/one"),
        combination([], planned=3, a="z", b__c="two"),
    ]
    table = sweep_table(each, ["reward"])
    write_markdown(table, tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| a | b.c | runs | steps | reward start | reward end |"
    assert lines[2] == "| x\\|y | one | 1 | 2 | 0 | 0.3333 |"
    assert lines[3] == "| z | two | 0 of 3 | - | - | - |"
    write_csv(table, tmp_path / "table.csv")
    first, second = csv.DictReader((tmp_path / "table.csv").open(newline=""))
    assert first["b.c"] == "dir/one" and float(first["reward end"]) == 1 / 3 and first["reward end low"] == ""
    assert (second["planned"], second["finished"], second["reward end"], second["reward end n"]) == (
        "3",
        "0",
        "",
        "0",
    )


def test_paths_are_shortened_where_they_stay_apart():
    def short(*paths):
        return [row["p"] for row in short_values([combination([], p=path) for path in paths])]

    assert short("data/a.jsonl", "data/b.jsonl") == ["a.jsonl", "b.jsonl"]
    assert short("x/a.jsonl", "y/a.jsonl") == ["x/a.jsonl", "y/a.jsonl"]


def test_on_a_terminal_a_line_has_one_number():
    failures = ["seed 0, exit code 2: fastrl: [data] path: expected a file"]
    runs = [run(rewards=[0.0, value]) for value in (0.25, 0.75)]
    table = sweep_table(
        [combination(runs, a="1", b="x"), combination([], planned=2, failures=failures, a="2", b="long")],
        ["reward"],
    )
    assert table_text(table).splitlines() == [
        "runs", "  a=1, b=x     2", "  a=2, b=long  0 of 2",
        "steps", "  a=1, b=x     2", "  a=2, b=long  -",
        "reward start", "  a=1, b=x     0", "  a=2, b=long  -",
        "reward end", "  a=1, b=x     0.5 [-2.677, 3.677]", "  a=2, b=long  -",
        "failed", "  a=1, b=x", f"  a=2, b=long  {failures[0]}",
    ]  # fmt: skip


def test_metrics_that_are_shown_by_default():
    curves = run(rewards=[1.0], evals={0: 0.5})
    for name in ("eval/maj@2", "eval/maj@4", "eval/avg@4/low", "kl"):
        curves.lines[0][name] = 0.5
    assert headline_metrics([curves]) == ["eval/avg@4", "eval/maj@4", "reward"]
    assert headline_metrics([RunCurves("sft", [{"step": 1, "loss": 2.0, "entropy": 1.0}])]) == ["loss"]
