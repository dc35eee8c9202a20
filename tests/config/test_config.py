"""Recipes and flags: round trips, refusals that name the option, and the pinned list of options."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fastrl.config import (
    STAGES,
    CheckpointConfig,
    GroupsConfig,
    LoraConfig,
    LossConfig,
    PromptedConfig,
    RewardConfig,
    RewardModelConfig,
    RlConfig,
    RolloutConfig,
    SftConfig,
    TrainConfig,
    TransferConfig,
    field_names,
)
from fastrl.config.load import (
    find_recipe,
    from_dict,
    load_config,
    read_yaml,
    recipe_names,
    to_dict,
    to_yaml,
)

OPTIONS = Path(__file__).with_name("rl_options.txt")


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_options_are_those_that_are_pinned():
    # A new or renamed option is a promise to users: change rl_options.txt in the same commit.
    assert field_names(RlConfig) == OPTIONS.read_text().split()


def test_there_are_recipes_and_they_load_and_round_trip():
    assert {"rlvr", "rltr", "rlvr-tiny", "rltr-tiny"} <= set(recipe_names())
    for name in recipe_names():
        config = load_config(name)
        assert from_dict(to_dict(config)) == config
        assert from_dict(yaml.safe_load(to_yaml(config))) == config
        stated = read_yaml(find_recipe(name))
        assert config.run.dir == stated["run"]["dir"]


def test_the_rltr_recipes_are_the_rlvr_ones_with_transfer():
    for pair in (("rlvr", "rltr"), ("rlvr-tiny", "rltr-tiny"), ("rlvr-smol", "rltr-smol")):
        rlvr, rltr = map(load_config, pair)
        assert rltr.uses_transfer and not rlvr.uses_transfer
        assert rltr.rollout == rlvr.rollout and rltr.loss == rlvr.loss and rltr.train == rlvr.train


def test_every_stage_round_trips_with_unusual_values(tmp_path):
    config = RlConfig(
        rollout=RolloutConfig(stop=("\n\n", "é: #"), temperature=1e-6, top_p=0.1 + 0.2),
        loss=LossConfig(loss_type="cispo", clip_eps_high=5, dual_clip=None),
        reward=RewardConfig(functions=("transfer",), weights=(1.0,)),
        transfer=TransferConfig(strip_answer=True),
    )
    path = write(tmp_path, to_yaml(config))
    assert load_config(path) == config
    falling = SftConfig(train=TrainConfig(lr_scheduler_type="cosine", no_decay=(r"embed_tokens|\.bias$",)))
    for other in (
        falling,
        GroupsConfig(negatives="given", margin=0.1),
        RewardModelConfig(lora=LoraConfig(rank=32)),
    ):
        assert load_config(write(tmp_path, to_yaml(other))) == other
    assert set(STAGES) == {"rl", "sft", "cpt", "reward_model", "groups", "hard_set", "intervene", "subset"}


def test_flags_stand_over_the_recipe_and_the_recipe_over_defaults(tmp_path):
    path = write(tmp_path, "stage: rl\ntrain:\n  num_steps: 7\n  learning_rate: 1e-4\n")
    config = load_config(path, ["--train.num_steps", "9", "--loss.loss_type", "gspo"])
    assert config.train.num_steps == 9
    assert config.train.learning_rate == 1e-4
    assert config.loss.loss_type == "gspo"
    assert config.train.warmup_steps == RlConfig().train.warmup_steps
    assert load_config(None) == RlConfig()


def test_every_stage_has_a_schedule_of_its_own(tmp_path):
    own = {"rl": "constant", "sft": "constant", "reward_model": "constant", "cpt": "cosine"}
    for stage, schedule in own.items():
        path = write(tmp_path, f"stage: {stage}\ntrain: {{num_steps: 7}}\n")
        assert load_config(path).train.lr_scheduler_type == schedule
        assert load_config(path, ["--train.lr_scheduler_type", "linear"]).train.lr_scheduler_type == "linear"
        assert STAGES[stage](train=TrainConfig(num_steps=7)).train.lr_scheduler_type == schedule


@pytest.mark.parametrize(
    "flags",
    [
        ["--train.num_steps", "5", "--loss.clip_eps_high", "0.28"],
        ["--train.num-steps=5", "--loss.clip-eps-high=0.28"],
    ],
)
def test_flags_take_dashes_underscores_and_equals_signs(flags):
    config = load_config(None, flags)
    assert (config.train.num_steps, config.loss.clip_eps_high) == (5, 0.28)


def test_flags_spell_constants_and_lists_as_yaml_does(tmp_path):
    path = write(
        tmp_path, "stage: rl\ndata: {limit: 4, system_prompt: be brief}\nloss: {clip_eps_high: 0.3}\n"
    )
    flags = ["--rollout.dynamic_sampling", "true", "--data.limit", "null", "--loss.clip_eps_high", "None"]
    lists = ["--reward.functions", "answer", "transfer", "--reward.weights", "1", "0.5"]
    config = load_config(path, flags + lists)
    assert config.rollout.dynamic_sampling is True
    assert config.data.limit is None and config.loss.clip_eps_high is None
    assert config.data.system_prompt == "be brief"
    assert config.reward.functions == ("answer", "transfer") and config.reward.weights == (1.0, 0.5)
    config = load_config(path, [*lists, "--transfer.receiver.path", "some/model"])
    assert config.transfer.receiver.path == "some/model"


def test_a_mapping_is_yaml_in_a_recipe_and_json_on_the_command_line(tmp_path):
    given = "{enable_thinking: false, steps: [1, null]}"
    path = write(tmp_path, f"stage: rl\ndata: {{chat_template_kwargs: {given}}}\n")
    config = load_config(path)
    assert config.data.chat_template_kwargs == {"enable_thinking": False, "steps": [1, None]}
    assert from_dict(yaml.safe_load(to_yaml(config))) == config
    assert load_config(path, ["--train.num_steps", "3"]).data == config.data
    config = load_config(path, ["--data.chat_template_kwargs", '{"date_string": "1 Jan"}'])
    assert config.data.chat_template_kwargs == {"date_string": "1 Jan"}


@pytest.mark.parametrize("word", ["enable_thinking=false", "[1]", '{"a": NaN}'])
def test_a_mapping_that_is_no_json_names_its_flag(word, capsys):
    with pytest.raises(SystemExit) as ended:
        load_config(None, ["--data.chat_template_kwargs", word])
    assert ended.value.code == 2 and "--data.chat_template_kwargs" in capsys.readouterr().err


def test_a_frozen_model_has_a_template_of_its_own():
    flags = ["--reward.functions", "transfer", "--reward.weights", "1"]
    config = load_config(None, [*flags, "--transfer.receiver.chat_template", "none"])
    assert config.transfer.receiver == PromptedConfig(chat_template="none")
    assert TransferConfig(receiver=CheckpointConfig(path="x")).receiver == PromptedConfig(path="x")


@pytest.mark.parametrize(
    "text, message",
    [
        ("stage: rl\ntrian: {}\n", r"\[recipe\] trian: expected a known option, nearest are train"),
        ("stage: rl\ntrain: {num_step: 1}\n", r"train\.num_step: .*nearest are train\.num_steps"),
        ("stage: rl\nlearning_rate: 1\n", r"learning_rate: .*nearest are train\.learning_rate"),
        (
            "stage: rl\ntransfer: {receiver: {pth: x}}\n",
            r"transfer\.receiver\.pth: .*transfer\.receiver\.path",
        ),
        ("stage: rl\nzzz: 1\n", r"zzz: .*sections are .*rollout"),
        ("stage: rl\ntrain: {num_steps: 1.5}\n", r"train\.num_steps: expected a whole number, got 1\.5"),
        ("stage: rl\ntrain: {num_steps: '5'}\n", r"train\.num_steps: expected a whole number, got '5'"),
        ("stage: rl\ntrain: {num_steps: true}\n", r"train\.num_steps: expected a whole number, got True"),
        ("stage: rl\ntrain: {learning_rate: fast}\n", r"train\.learning_rate: expected a number, got 'fast'"),
        ("stage: rl\nrollout: {dynamic_sampling: 1}\n", r"dynamic_sampling: expected true or false, got 1"),
        ("stage: rl\ndata: {limit: all}\n", r"data\.limit: expected a whole number or null, got 'all'"),
        ("stage: rl\nreward: {weights: [1, a]}\n", r"reward\.weights\[1\]: expected a number, got 'a'"),
        ("stage: rl\nreward: {functions: answer}\n", r"reward\.functions: expected a list, each text"),
        ("stage: rl\nloss: {loss_type: ppo}\n", r"loss\.loss_type: expected one of grpo, .*got 'ppo'"),
        (
            "stage: rl\ndata: {chat_template_kwargs: {day: 2024-07-26}}\n",
            r"data\.chat_template_kwargs: expected a mapping from names to values of JSON, got",
        ),
        (
            "stage: groups\ndata: {chat_template: none}\n",
            r"\[data\] chat_template: expected auto, since stage groups does not use it, got 'none'",
        ),
        (
            "stage: reward_model\ndata: {chat_template_kwargs: {a: 1}}\n",
            r"\[data\] chat_template_kwargs: expected none, since stage reward_model uses none",
        ),
        ("stage: rl\ndata: 3\n", r"\[recipe\] data: expected a mapping of options, got 3"),
        ("stage: rl\ndata:\n", r"\[recipe\] data: expected a mapping of options, got None"),
        ("stage: rlhf\n", r"stage: expected one of rl, sft, reward_model, groups, .*pipeline, got 'rlhf'"),
        (
            "train: {num_steps: 1}\n",
            r"stage: expected one of rl, sft, reward_model, groups, .*pipeline, got None",
        ),
        ("stage: rl\ntrain: {num_steps: 1}\ntrain: {num_steps: 2}\n", r"train: expected once .* got 2 times"),
        ("- stage\n", r"expected a mapping of options"),
        ("stage: [rl\n", r"expected YAML"),
        ("stage: rl\nrollout: {group_size: 1}\n", r"\[rollout\] group_size: expected >= 2, got 1"),
        ("stage: rl\nrollout: {num_prompts: 0}\n", r"\[rollout\] num_prompts: expected > 0, got 0"),
        ("stage: rl\neval: {num_samples: 0}\n", r"\[eval\] num_samples: expected > 0, got 0"),
        ("stage: rl\nreward: {functions: [answer]}\n", r"\[reward\] weights: expected 1 numbers"),
        ("stage: rl\ntrain: {learning_rate: .nan}\n", r"\[train\] learning_rate: expected > 0, got nan"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    "number, value", [("1e-6", 1e-6), ("5E+2", 500.0), ("1.e-3", 1e-3), ("2", 2.0), ("-1e0", -1)]
)
def test_numbers_with_exponents_are_numbers(tmp_path, number, value):
    (tmp_path / "one.yaml").write_text(f"x: {number}\ny: v1e-6\n")
    data = read_yaml(tmp_path / "one.yaml")
    assert data["x"] == value and not isinstance(data["x"], str)
    assert data["y"] == "v1e-6"


def test_an_unknown_recipe_names_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rltr-tiny.*got 'rltr-tny'"):
        load_config("rltr-tny")
    with pytest.raises(FileNotFoundError, match="expected an existing file"):
        load_config(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("flags", [["--trian.num_steps", "1"], ["--train.num_steps", "five"], ["loose"]])
def test_a_wrong_flag_ends_with_code_2_and_its_name(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        load_config(None, flags)
    assert ended.value.code == 2
    assert flags[-1] in capsys.readouterr().err


def test_values_out_of_range_are_refused_from_flags_too(capsys):
    with pytest.raises(SystemExit):
        load_config(None, ["--rollout.group_size", "1"])
    assert "[rollout] group_size: expected >= 2, got 1" in " ".join(capsys.readouterr().err.split())


def test_frozen():
    config = RlConfig()
    with pytest.raises(AttributeError):
        config.train.num_steps = 3
    assert replace(config.train, num_steps=3).num_steps == 3


@pytest.mark.process
def test_importing_fastrl_and_its_ops_loads_no_command_line():
    code = "import sys, fastrl, fastrl.ops, fastrl.config.load; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fastrl.config.load" in found.stdout.split()
    assert not {"tyro", "rich", "matplotlib", "transformers"} & set(found.stdout.split())


def test_rloo_needs_its_baseline():
    with pytest.raises(ValueError, match=r"\[reward\] baseline: expected leave_one_out"):
        RlConfig(loss=LossConfig(loss_type="rloo"))
    RlConfig(loss=LossConfig(loss_type="rloo"), reward=RewardConfig(baseline="leave_one_out"))
