"""The command line end to end: exit codes, one-line errors, dry runs, evaluation and plots."""

import json
import subprocess
import sys

import pytest
import yaml

from fastrl.cli.main import main
from fastrl.config.load import from_dict, load_config

COMMANDS = "demo, tiny, plan, train, sweep, reproduce, eval, grade, groups, plot, compare, report, doctor"


@pytest.fixture
def recipe(tmp_path, checkpoints):
    rows = [{"question": f"{a}+{b}=?", "answer": str(a + b)} for a in range(3) for b in range(2)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "stage": "rl",
        "run": {"dir": str(tmp_path / "run"), "device": "cpu"},
        "model": {"path": str(checkpoints["qwen3"])},
        "data": {"path": str(tmp_path / "problems.jsonl"), "system_prompt": "Be brief."},
        "rollout": {"num_prompts": 2, "group_size": 3, "max_new_tokens": 8},
        "reward": {"functions": ["answer", "transfer"], "weights": [1.0, 1.0]},
        "transfer": {"receiver": {"path": str(checkpoints["llama"])}, "num_cuts": 2, "slack_tokens": 4},
        "train": {"num_steps": 2, "epochs_per_batch": 2},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_dry_run_shows_a_recipe_that_loads_and_writes_nothing(recipe, tmp_path, capsys):
    assert main(["train", str(recipe), "--dry-run", "--train.num_steps", "5"]) == 0
    out = capsys.readouterr().out
    resolved = from_dict(yaml.safe_load(out))
    assert resolved == load_config(str(recipe), ["--train.num_steps", "5"])
    for line in (
        "# rollouts_per_step: 6",
        "# continuations_per_step: 12",
        "# optimizer_steps: 10",
        "# problems: 6",
        "# first prompt, 16 tokens, gold answer '0':",  # 9 of the system prompt, <user>, 5, <assistant>
        "#   Be brief.<user>0+0=?<assistant>",
    ):
        assert line in out.splitlines()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train"], "[train] RECIPE: expected it before any flag, got nothing"),
        (["train", "--train.num_steps", "3"], "[train] RECIPE: expected it before any flag"),
        (["train", "rltr-tny"], "[recipe] name: expected a .yaml file or one of"),
        (
            ["train", "RECIPE", "--data.path", "none.jsonl"],
            "[data] path: expected an existing file, got 'none.jsonl'",
        ),
        (["train", "RECIPE", "--model.path", "./none"], "[model] path"),
        (["train", "RECIPE", "--transfer.receiver.path="], "[transfer] receiver.path"),
        (
            ["train", "RECIPE", "--transfer.slack_tokens", "500"],
            "[transfer.receiver] path: expected a model that holds",
        ),
        (["eval"], "[eval] CHECKPOINT: expected it before any flag, got nothing"),
        (["eval", "./none", "--data.path", "DATA"], "[eval.checkpoint] path"),
        (["plot"], "[plot] runs: expected at least one run folder, got none"),
        (["plot", "no-run"], "[plot] runs: expected a run folder with metrics.jsonl, got 'no-run'"),
        (["doctor", "please"], "[doctor.MODEL] path: expected a model folder or hub name, got 'please'"),
        (["fly"], f"[fastrl] command: expected one of {COMMANDS}, got 'fly'"),
    ],
)
def test_a_users_error_is_one_line_and_code_2(arguments, message, recipe, tmp_path, capsys):
    names = {"RECIPE": str(recipe), "DATA": str(tmp_path / "problems.jsonl")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_internal_error_keeps_its_traceback(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"reward": 1}\n')  # a line without a step, which no run writes
    with pytest.raises(KeyError):
        main(["plot", str(tmp_path)])


def test_help_names_every_command_and_recipe(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("demo", "train", "eval", "plot", "doctor", "rltr-tiny", "torchrun"):
        assert word in out
    assert main([]) == 2


@pytest.mark.parametrize("command", [["train"], ["train", "rltr-tiny"], ["eval"], ["plot"]])
def test_commands_have_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: fastrl" in capsys.readouterr().out


def test_eval_prints_tables_and_writes_results(recipe, tmp_path, checkpoints, capsys):
    arguments = [
        "eval", str(checkpoints["qwen3"]), "--data.path", str(tmp_path / "problems.jsonl"),
        "--num_samples", "3", "--max_new_tokens", "6", "--receiver", str(checkpoints["llama"]),
        "--taus", "0.5", "1.0", "--num_cut", "2", "--num_continuations", "2", "--slack_tokens", "4",
        "--out", str(tmp_path / "out"), "--device", "cpu",
    ]  # fmt: skip
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "avg@3" in out and "transferability to" in out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["metrics"]["num_problems"] == 6
    assert {"avg@3", "maj@3", "pass@2", "pass@3/low"} <= set(results["metrics"])
    transfer = results["transfer"][str(checkpoints["llama"])]
    assert set(transfer) == {"as_cut", "answer_stripped"}
    assert transfer["as_cut"]["taus"] == [0.5, 1.0] and len(transfer["as_cut"]["per_problem"]) == 6
    rows = [json.loads(line) for line in (tmp_path / "out/completions.jsonl").read_text().splitlines()]
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in range(6) for s in range(3)]


def test_train_then_plot_and_eval_of_the_run_folder(recipe, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--reward.functions", "answer", "--reward.weights", "1", "--train.num_steps", "1"]
    assert main(["train", str(recipe), *flags]) == 0
    printed = capsys.readouterr().out.split()[-1]
    assert (run / "checkpoints/step-000001").samefile(printed)
    assert main(["plot", str(run), "--out", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "reward" in capsys.readouterr().out.splitlines()
    problems = str(tmp_path / "problems.jsonl")
    assert (
        main(["eval", str(run), "--data.path", problems, "--num_samples", "1", "--max_new_tokens", "4"]) == 0
    )
    assert "step-000001" in capsys.readouterr().out


@pytest.mark.process
def test_the_module_runs_as_a_program(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "fastrl.cli.main", "fly"], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 2
    assert ran.stderr == f"[fastrl] command: expected one of {COMMANDS}, got 'fly'\n"
