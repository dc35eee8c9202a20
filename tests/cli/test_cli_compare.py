"""fastrl compare on the command line: exit codes, tables, JSON, plots, the user's own references."""

import json

import pytest
from compared import rl_lines, write_run, write_seeds

from fastrl.cli.main import main
from fastrl.tools.compare.reference import read_reference


@pytest.fixture
def seeds(tmp_path):
    return [str(folder) for folder in write_seeds(tmp_path)]


def run(folder, seed=9, lines=None, **options):
    return str(write_run(folder, seed, lines, **options))


def test_against_several_runs_and_then_against_their_reference_file(seeds, tmp_path, capsys):
    new, file = run(tmp_path / "new", lines=rl_lines(1.5)), str(tmp_path / "own.jsonl")
    assert main(["compare", new, *seeds, "--write", file]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "new against 4 runs: no drift: 3 metrics inside"
    assert "reward" in out and "0 of 3" in out
    assert read_reference(tmp_path / "own.jsonl").seeds == (0, 1, 2, 3)
    assert main(["compare", new, file]) == 0


def test_drift_is_exit_code_1_and_stands_first(seeds, tmp_path, capsys):
    broken = run(tmp_path / "broken", lines=rl_lines(1, entropy=9.0))
    picture = tmp_path / "drift.png"
    assert main(["compare", broken, *seeds, "--png", str(picture)]) == 1
    out = capsys.readouterr().out.splitlines()
    [row] = [line for line in out if "outside" in line and "entropy" in line]
    assert (
        "2 of 3" in row
        and "6-10" in row
        and out.index(row) < min(out.index(line) for line in out if "inside" in line)
    )
    assert out[-1] == "broken against 4 runs: drift: 1 of 3 metrics"
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_json_for_programs(seeds, tmp_path, capsys):
    broken = run(tmp_path / "broken", lines=rl_lines(1, entropy=9.0))
    assert main(["compare", broken, *seeds, "--json", "true"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["run"], told["reference"], told["kind"], told["drift"]) == ("broken", "4 runs", "band", True)
    [entropy] = [each for each in told["findings"] if each["metric"] == "entropy"]
    assert entropy["verdict"] == "outside" and entropy["block"] == [6, 10] and entropy["value"] == 9.0


def test_the_same_seed_again(tmp_path, capsys):
    one, again = run(tmp_path / "one", 3), run(tmp_path / "again", 3)
    assert main(["compare", one, again]) == 0
    assert capsys.readouterr().out == "one and again: equal bit for bit, 32 numbers in 11 steps\n"
    lines = rl_lines(3)
    lines[2]["entropy"] = 0.5 + 1e-12
    other = run(tmp_path / "other", 3, lines)
    assert main(["compare", one, other]) == 1
    assert "first differ at step 2 of rl, in entropy: 0.5 and 0.500000000001" in capsys.readouterr().out
    assert main(["compare", one, other, "--json", "true"]) == 1
    assert json.loads(capsys.readouterr().out)["parting"]["step"] == 2


def test_a_single_other_seed_shows_differences_without_a_verdict(tmp_path, capsys):
    one, other = run(tmp_path / "one", 3), run(tmp_path / "other", 7, rl_lines(7, steps=15))
    assert main(["compare", one, other]) == 0
    assert "one and other, with other seeds" in capsys.readouterr().out
    assert main(["compare", one, other, "--json", "true"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kind"] == "other seed" and {each["metric"] for each in told["differences"]} >= {"reward"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "[compare] RUN REFERENCE: expected both before any flag, got nothing"),
        (["NEW"], "[compare] RUN REFERENCE: expected both before any flag, got"),
        (["NEW", "no-such"], "[compare] reference: expected a run folder, a reference file or one of"),
        (["no-such", "NEW"], "[compare] run: expected a run folder with config.yaml or pipeline.yaml"),
        (["NEW", "SEED", "SEED"], "[compare] reference: expected one run, or at least 3 for a band, got 2"),
        (["NEW", "SEED", "--png", "x.png"], "[compare] png: expected a reference with bands, got one run"),
        (["OTHER", "SEED"], "got rl rollout.group_size 3, not 8; --other_config true compares them anyway"),
    ],
)
def test_what_cannot_be_compared_is_exit_code_2(arguments, message, seeds, tmp_path, capsys):
    places = {
        "NEW": run(tmp_path / "new"),
        "OTHER": run(tmp_path / "other", rollout={"group_size": 3}),
        "SEED": seeds[0],
    }
    assert main(["compare", *(places.get(word, word) for word in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as left:
        main(["compare", "--help"])
    assert left.value.code == 0 and "--other_config" in capsys.readouterr().out


def test_another_configuration_on_demand(seeds, tmp_path, capsys):
    other = run(tmp_path / "other", lines=rl_lines(1), rollout={"group_size": 3})
    assert main(["compare", other, *seeds, "--other_config", "true"]) == 0
    assert "other configuration: rl rollout.group_size 3, not 8" in capsys.readouterr().out
    assert main(["compare", other, seeds[0], "--other_config", "true"]) == 0
