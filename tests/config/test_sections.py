"""Unused sections: refused in flags and recipes, hidden in --help, not written by a run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fastrl.cli.main import main
from fastrl.config import RewardConfig, RlConfig, TransferConfig, field_names, in_use
from fastrl.config.load import from_dict, load_config, read_stored, recipe_names, to_dict, to_yaml
from fastrl.config.usual import USUAL
from fastrl.runtime.run import Run

MOST = 120
TRANSFER = ("--reward.functions", "answer", "transfer", "--reward.weights", "1", "1")


def shown(capsys, *words: str) -> list[str]:
    """The options that a help lists."""
    with pytest.raises(SystemExit) as ended:
        load_config(words[0], words[1:])
    assert ended.value.code == 0
    return re.findall(r"^\W*--([\w.]+)", capsys.readouterr().out, re.MULTILINE)


def test_the_help_of_rlvr_has_at_most_120_options(capsys):
    options = shown(capsys, "rlvr", "--help", "all")
    assert len(options) == len(set(options)) <= MOST
    sections = {name.partition(".")[0] for name in options}
    assert not sections & {"transfer", "uplift", "labels"}
    assert [name for name in options if "faithfulness" in name] == ["eval.faithfulness.enabled"]


@pytest.mark.parametrize(
    "flags, section",
    [
        (TRANSFER, "transfer"),
        (("--reward.functions=transfer", "--reward.weights=1"), "transfer"),
        (("--reward.functions", "uplift", "--reward.weights", "1"), "uplift"),
        (("--reward.functions", "answer", "rubric"), "uplift"),
        (("--reward.functions", "answer", "label"), "labels"),
        (("--eval.faithfulness.enabled", "true", "--eval.path", "x"), "eval.faithfulness"),
    ],
)
def test_a_flag_that_names_a_reward_shows_its_section(flags, section, capsys):
    own = [name for name in field_names(RlConfig) if name.startswith(f"{section}.")]
    assert sorted(shown(capsys, "rlvr", *flags, "--help", section)) == sorted(own)
    assert set(own) <= set(shown(capsys, "rlvr", *flags, "--help", "all"))


def test_the_first_tier_has_about_twenty_options_that_exist(capsys):
    for stage, names in USUAL.items():
        known = field_names(type(from_dict({"stage": stage})))
        assert set(names) <= set(known) and len(set(names)) == len(names) <= 30, stage
    assert 15 <= len(shown(capsys, "rlvr", "--help")) <= 25
    tier = shown(capsys, "rltr", "--help")
    assert "transfer.receiver.path" in tier and "uplift.reward_model" not in tier and len(tier) <= 25
    assert 10 <= len(shown(capsys, "tracelift-math", "--help")) <= 30


def test_the_help_shows_the_recipes_values_and_where_the_rest_is(capsys):
    with pytest.raises(SystemExit):
        load_config("rltr-tiny", ["--help"])
    out = capsys.readouterr().out
    words = " ".join(re.findall(r"[\w:/.-]+", out))
    assert "default: tiny-world/receiver" in words and "default: 30" in words
    last = out.rstrip().splitlines()[-1]
    assert re.match(
        r"\d+ of \d+ options\. --help all shows all; --help SECTION those of one of alarm, ", last
    )
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--train.num_steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    "topic, message",
    [
        ("transfer", "expected transfer only with reward.functions with transfer"),
        ("trian", "expected one of alarm, answer, data, engine, .*train or all, got 'trian'"),
    ],
)
def test_help_on_a_section_that_is_not_there(topic, message):
    with pytest.raises(ValueError, match=rf"\[help\] SECTION: {message}"):
        load_config("rlvr", ["--help", topic])


@pytest.mark.parametrize(
    "recipe, flags, message",
    [
        ("rlvr", ["--transfer.num_cuts", "2"],
         r"\[transfer\] num_cuts: expected reward.functions with transfer, since .*\('answer', 'format'\)"),
        ("rlvr", ["--transfer.num-cuts=2", "--reward.functions", "answer"],
         r"\[transfer\] num_cuts: expected reward.functions with transfer, since .*, got \['answer'\]"),
        ("rlvr", ["--uplift.executor.model.path", "x"],
         r"\[uplift\] executor.model.path: expected reward.functions with uplift or rubric"),
        ("rlvr", ["--labels.share", "0.5"], r"\[labels\] share: expected reward.functions with label"),
        ("rlvr", ["--eval.faithfulness.every", "2"],
         r"\[eval.faithfulness\] every: expected eval.faithfulness.enabled true, since .*, got False"),
        ("tracelift-math", ["--rl.transfer.num_cuts", "2"],
         r"\[rl.transfer\] num_cuts: expected rl.reward.functions with transfer"),
    ],
)  # fmt: skip
def test_an_option_that_nothing_uses_is_refused_by_name(recipe, flags, message):
    with pytest.raises(ValueError, match=message):
        load_config(recipe, flags)


def test_a_recipe_with_an_option_that_nothing_uses_is_refused_unless_flags_use_it(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage: rl\ntransfer: {num_cuts: 3}\nlabels: {share: 0.0}\n")
    with pytest.raises(ValueError, match=r"\[transfer\] num_cuts: expected reward.functions with transfer"):
        load_config(str(path))
    assert load_config(str(path), TRANSFER).transfer.num_cuts == 3


def test_a_recipe_with_whole_default_sections_loads(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(to_dict(RlConfig())))
    assert load_config(str(path)) == RlConfig()


def test_a_recipe_without_its_reward_forgets_the_section():
    plain = load_config("rltr", ["--reward.functions", "answer", "format", "--reward.weights", "1", "0.1"])
    assert plain.transfer == TransferConfig()
    assert replace(plain, run=load_config("rlvr").run) == load_config("rlvr")
    # the recipe names the reward, so that its section's flags are known
    assert load_config("rltr", ["--transfer.num_cuts", "2", "--reward.functions", "answer",
                                "--reward.weights", "1"]).transfer == TransferConfig()  # fmt: skip


def test_what_is_written_leaves_out_what_is_not_used():
    for name in recipe_names():
        config = load_config(name)
        written = yaml.safe_load(to_yaml(config))
        assert from_dict(written) == config
    rlvr = yaml.safe_load(to_yaml(load_config("rlvr")))
    assert not {"transfer", "uplift", "labels"} & set(rlvr) and "faithfulness" not in rlvr["eval"]
    assert "transfer" in yaml.safe_load(to_yaml(load_config("rltr")))
    # one that is set is written, whatever uses it
    odd = RlConfig(transfer=TransferConfig(num_cuts=2))
    assert from_dict(yaml.safe_load(to_yaml(odd))) == odd and in_use(odd) == RlConfig()


@pytest.mark.parametrize("before, now", [(2, 1), (1, 2), (2, 3)])
def test_a_section_that_nothing_uses_keeps_no_run_from_going_on(before, now, tmp_path):
    run = replace(RlConfig().run, dir=str(tmp_path / "run"))
    Run.start(RlConfig(run=run, transfer=TransferConfig(num_cuts=before)))
    Run.start(RlConfig(run=run, transfer=TransferConfig(num_cuts=now)))
    used = RewardConfig(functions=("transfer",), weights=(1.0,))
    with pytest.raises(ValueError, match=r"whose reward\.functions.* differ"):
        Run.start(RlConfig(run=run, reward=used, transfer=TransferConfig(num_cuts=now)))
    assert read_stored(Path(run.dir) / "config.yaml") == RlConfig(run=run)


@pytest.mark.parametrize("flag, near", [("--train.num_step", "--train.num_steps"),
                                        ("--rollout.group_sise", "--rollout.group_size")])  # fmt: skip
def test_an_unknown_flag_names_the_nearest(flag, near, capsys):
    with pytest.raises(SystemExit) as ended:
        load_config("rlvr", [flag, "3"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and flag in error and near in error
