"""check_config: which configurations are refused before a model is loaded, and which are valid."""

import shutil
from dataclasses import replace

import pytest
from checkpoints import byte_tokenizer
from jsonl import write_jsonl

from fastrl.check import check_config, check_fits
from fastrl.check.model import longest_prompt
from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    EvalConfig,
    HardSetConfig,
    ModelConfig,
    PromptedConfig,
    ReceiverEngineConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    SftConfig,
    TransferConfig,
)
from fastrl.data import Problem
from fastrl.data.prompts import render_prompt

# Prompts are bytes between <user> and <assistant>: the longest, "9+9+9+9=?", is 9 + 2 tokens; 512 positions.
QUESTIONS = ["1+2=?", "9+9+9+9=?", "7+1=?"]
LONGEST = 11


@pytest.fixture
def config(tmp_path, checkpoints) -> RlConfig:
    rows = [{"question": question, "answer": "3"} for question in QUESTIONS]
    write_jsonl(tmp_path / "train.jsonl", rows)
    return RlConfig(
        run=RunConfig(dir=str(tmp_path / "run"), device="cpu"),
        model=ModelConfig(path=str(checkpoints["qwen3"])),
        data=DataConfig(path=str(tmp_path / "train.jsonl")),
        rollout=RolloutConfig(max_new_tokens=100),
        reward=RewardConfig(functions=("answer", "transfer"), weights=(1.0, 1.0)),
        transfer=TransferConfig(receiver=CheckpointConfig(path=str(checkpoints["llama"]))),
        eval=EvalConfig(path=str(tmp_path / "train.jsonl")),
    )


def refused(config, error=ValueError):
    with pytest.raises(error) as caught:
        check_config(config)
    return str(caught.value)


def test_a_valid_configuration_passes(config, tmp_path):
    check_config(config)
    check_config(
        replace(config, reward=RewardConfig(functions=("answer",), weights=(1.0,)), eval=EvalConfig())
    )
    assert not (tmp_path / "run").exists()


def test_a_weight_of_zero_is_a_measurement_and_all_zero_is_refused(config):
    check_config(replace(config, reward=replace(config.reward, weights=(1.0, 0.0))))
    message = refused(replace(config, reward=replace(config.reward, weights=(0.0, 0.0))))
    assert message == "[reward] weights: expected at least one that is not 0, got (0.0, 0.0)"


def test_files_must_be_there_and_hold_problems(config, tmp_path):
    missing = str(tmp_path / "none.jsonl")
    assert missing in refused(replace(config, data=DataConfig(path=missing)), FileNotFoundError)
    assert missing in refused(replace(config, eval=EvalConfig(path=missing)), FileNotFoundError)
    (tmp_path / "no_gold.jsonl").write_text('{"question": "1+1=?"}\n')
    message = refused(replace(config, data=DataConfig(path=str(tmp_path / "no_gold.jsonl"))))
    assert "solution_column" in message and "question" in message


def test_transfer_needs_a_receiver(config):
    message = refused(replace(config, transfer=TransferConfig()))
    assert "[transfer] receiver.path" in message and "reward.functions has transfer" in message
    no_transfer = RewardConfig(functions=("answer",), weights=(1.0,))
    check_config(replace(config, transfer=TransferConfig(), reward=no_transfer))


def test_a_model_must_be_a_checkpoint_with_weights_and_tokenizer(config, checkpoints, tmp_path):
    assert "got ''" in refused(replace(config, model=ModelConfig()))
    assert "no such folder" in refused(
        replace(config, model=ModelConfig(path="./nowhere")), FileNotFoundError
    )
    assert "no such folder" in refused(replace(config, model=ModelConfig(path="a/b/c")), FileNotFoundError)
    for family, pattern, expected in (
        ("config", "config.json", "a folder with config.json"),
        ("weights", "*.safetensors", "a folder with weights"),
        ("tokenizer", "tokenizer*", "a folder with a tokenizer"),
    ):
        folder = tmp_path / family
        shutil.copytree(checkpoints["llama"], folder)
        for file in folder.glob(pattern):
            file.unlink()
        broken = ModelConfig(path=str(folder))
        assert f"[model] path: expected {expected}" in refused(replace(config, model=broken))
        receiver = replace(config, transfer=TransferConfig(receiver=CheckpointConfig(path=str(folder))))
        assert f"[transfer.receiver] path: expected {expected}" in refused(receiver)


def test_templates_are_checked_for_the_data_and_for_frozen_models(config):
    data = replace(config.data, chat_template_kwargs={"thinks": False})
    assert refused(replace(config, data=data)) == (
        "[data] chat_template_kwargs: expected variables that the chat template reads (none), got 'thinks'"
    )
    receiver = PromptedConfig(path=config.transfer.receiver.path, chat_template="a/template")
    assert refused(replace(config, transfer=replace(config.transfer, receiver=receiver))) == (
        "[transfer.receiver] chat_template: expected auto, none, a .jinja file or a model folder, got "
        "'a/template'"
    )
    check_config(replace(config, data=replace(config.data, chat_template="none")))


def test_a_hub_name_without_connection_is_refused_at_once(config, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    message = refused(replace(config, model=ModelConfig(path="nobody/no-such-model")), FileNotFoundError)
    assert "there is no such folder, and http://127.0.0.1:9 can't be reached" in message


@pytest.mark.parametrize("room, fits", [(512, True), (513, False)])
def test_prompt_and_completion_must_fit_the_policy(config, room, fits):
    config = replace(config, rollout=replace(config.rollout, max_new_tokens=room - LONGEST))
    config = replace(config, reward=RewardConfig(functions=("answer",), weights=(1.0,)))
    if fits:
        check_config(config)
    else:
        message = refused(config)
        assert message.startswith(
            "[model] path: expected a model that holds 513 tokens, got 512: row 2's prompt of 11"
        )


@pytest.mark.parametrize("slack, fits", [(401, True), (402, False)])
def test_prompt_prefix_and_continuation_must_fit_the_receiver(config, slack, fits):
    config = replace(config, transfer=replace(config.transfer, slack_tokens=slack))
    if fits:
        check_config(config)
    else:
        assert refused(config).startswith(
            "[transfer.receiver] path: expected a model that holds 513 tokens, got 512"
        )


def test_positions_are_found_under_other_names(checkpoints):
    problem = Problem(index=0, messages=[{"role": "user", "content": "hi"}], solution="1")
    model = CheckpointConfig(path=str(checkpoints["gpt2"]))  # n_positions = 512
    check_fits("model", model, [problem], 508, "rollout.max_new_tokens", 65536)
    with pytest.raises(ValueError, match="holds 513 tokens, got 512"):
        check_fits("model", model, [problem], 509, "rollout.max_new_tokens", 65536)


def test_one_request_must_fit_the_engine(config):
    message = refused(replace(config, engine=EngineConfig(max_batch_tokens=110)))
    assert message.startswith("[engine] max_batch_tokens: expected >= 111, got 110")


def test_longest_prompt_counts_tokens_not_characters():
    """Bytes, here: ten characters of three bytes are longer than 24 letters."""
    tokenizer = byte_tokenizer()
    texts = ["letters and more letters", "数学の問題ですよね。", "short"]
    problems = [
        Problem(index=i, messages=[{"role": "user", "content": text}], solution="1")
        for i, text in enumerate(texts)
    ]
    problem, length = longest_prompt(tokenizer, problems)
    assert problem.index == 1
    assert length == len(render_prompt(tokenizer, problem.messages)) >= 30


def test_rewards_by_dotted_path_are_imported_first(config):
    def with_reward(name):
        return replace(config, reward=RewardConfig(functions=("answer", name), weights=(1.0, 1.0)))

    check_config(with_reward("statistics.mean"))
    assert "got 'no_such_module.reward'" in refused(with_reward("no_such_module.reward"))
    assert "no_such_function" in refused(with_reward("statistics.no_such_function"))
    assert "length" in refused(with_reward("length"))


def test_a_tracker_must_be_installed(config, monkeypatch):
    monkeypatch.setattr("fastrl.report.trackers.find_spec", lambda name: None)
    run = replace(config.run, report_to=("wandb",))
    for stage in (replace(config, run=run), SftConfig(run=run), HardSetConfig(run=run)):
        message = refused(stage)
        assert message == "[run] report_to: expected an installed package, got wandb; pip install wandb"


def test_sft_is_checked_too(config, tmp_path):
    rows = tmp_path / "sft.jsonl"
    rows.write_text('{"prompt": "1+2=?", "completion": "3"}\n')
    sft = SftConfig(run=config.run, model=config.model, data=DataConfig(path=str(rows)))
    check_config(sft)
    message = refused(replace(sft, data=config.data))
    assert "line 1: expected messages, or prompt and completion" in message
    with open(rows, "a") as file:
        file.write('{"prompt": "1", "completion": "' + "1 " * 600 + '"}\n')
    assert "expected conversations of at most 512 tokens" in refused(sft)
    assert "none.jsonl" in refused(replace(sft, data=DataConfig(path="none.jsonl")), FileNotFoundError)
    assert "[model] path" in refused(replace(sft, model=ModelConfig()))


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cuda"])
def test_an_engines_own_device_must_exist(config, device):
    message = refused(replace(config, engine=EngineConfig(device=device)))
    assert message.startswith("[engine] device: expected one of ['auto', 'cpu'")
    own = replace(config.transfer, engine=ReceiverEngineConfig(kind="torch", device=device))
    assert refused(replace(config, transfer=own)).startswith("[transfer.engine] device: expected one of")
    check_config(replace(config, engine=EngineConfig(device="cpu")))


def test_an_attention_that_shares_no_prefixes_is_named(config):
    with pytest.warns(UserWarning, match=r"\[model\] share_prefixes: .* fastrl_sdpa"):
        check_config(replace(config, model=replace(config.model, attention="sdpa")))
