"""check_config on the faithfulness section: refusals before a model is loaded, and valid sections."""

import json
from dataclasses import replace

import pytest
from checkpoints import write_checkpoint
from jsonl import read_jsonl, write_jsonl

from fastrl.check import check_config
from fastrl.check.faithfulness import check_judges_start
from fastrl.cli.eval import EvalOptions
from fastrl.cli.main import main
from fastrl.config import (
    CheckpointConfig,
    DataConfig,
    EngineConfig,
    EvalConfig,
    ExecutorConfig,
    FaithfulnessConfig,
    ModelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    UpliftConfig,
    WriterConfig,
)
from fastrl.methods.weak.judge import ALIGNMENT_PROMPT, DIFFERENCE_PROMPT

OWN = FaithfulnessConfig(enabled=True, num_problems=3, slack_tokens=10)
SIZES = "--faithfulness.num_problems", "3", "--max_new_tokens", "9", "--faithfulness.slack_tokens", "5"


@pytest.fixture
def problems(tmp_path):
    path = tmp_path / "test.jsonl"
    rows = [{"question": question, "answer": "3"} for question in ("1+2=?", "9+9+9+9=?", "7+1=?")]
    write_jsonl(path, rows)
    return str(path)


@pytest.fixture
def config(problems, checkpoints):
    def made(**changes) -> RlConfig:
        return RlConfig(
            model=ModelConfig(path=str(checkpoints["qwen3"])),
            data=DataConfig(path=problems),
            rollout=RolloutConfig(max_new_tokens=100),
            reward=RewardConfig(functions=("answer",), weights=(1.0,)),
            eval=EvalConfig(path=problems, faithfulness=replace(OWN, **changes)),
        )

    return made


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """512 positions hold no judge's prompt in bytes; this one's are 4096."""
    folder = write_checkpoint(tmp_path_factory.mktemp("judge") / "model", "llama")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 4096}))
    return WriterConfig(model=CheckpointConfig(path=str(folder)), max_new_tokens=7)


def refused(config, error=ValueError):
    with pytest.raises(error) as caught:
        check_config(config)
    return str(caught.value)


def test_a_valid_configuration_passes(config, judge):
    check_config(config())
    check_config(config(judge=judge, second_judge=judge, diversity=True))
    check_config(config(checker="fastrl.tiny.weak.faithful.aligned", probes=False))
    check_config(config(diversity=True, strategy="fastrl.tiny.weak.faithful.strategy"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"taus": ()}, "taus: expected rising numbers in [0, 1], got ()"),
        ({"taus": (0.5, 0.5)}, "taus: expected rising numbers"),
        ({"taus": (0.0, 1.5)}, "taus: expected rising numbers"),
        ({"num_samples": 0}, "num_samples: expected > 0, got 0"),
        ({"every": -1}, "every: expected >= 0, got -1"),
        ({"slack_tokens": -1}, "slack_tokens: expected >= 0, got -1"),
        ({"forcing_end": ""}, "forcing_end: expected at least one character, got ''"),
        ({"diversity": True}, "strategy: expected a function, since diversity is true without a judge"),
        ({"strategy": "a.b"}, "diversity: expected true, since strategy is set, got False"),
        ({"probes": False}, "probes: expected true, since nothing else is measured, got False"),
        (
            {"second_judge": WriterConfig(model=CheckpointConfig(path="second"))},
            "judge.model.path: expected a model, since second_judge.model.path is set, got ''",
        ),
    ],
    ids=["no-taus", "equal-taus", "tau-above-1", "samples", "every", "slack", "forcing-end", "diversity",
         "strategy", "nothing", "second-judge"],
)  # fmt: skip
def test_an_invalid_section_is_refused(changes, message):
    with pytest.raises(ValueError) as caught:
        replace(OWN, **changes)
    assert str(caught.value).startswith(f"[faithfulness] {message}")


def test_a_file_of_problems_is_needed(problems):
    with pytest.raises(
        ValueError, match=r"\[faithfulness\] path: expected a file of problems, since eval.path"
    ):
        EvalConfig(faithfulness=OWN)
    assert EvalConfig(faithfulness=replace(OWN, path=problems)).path is None


@pytest.mark.parametrize("option", ["checker", "strategy", "corrupt"])
@pytest.mark.parametrize(
    "path, message",
    [
        ("aligned", "expected a dotted path such as my_checks.aligned, got 'aligned'"),
        ("no_such_module.aligned", "expected a module that can be imported, got 'no_such_module.aligned'"),
        ("fastrl.tiny.weak.faithful.none", "expected a function of fastrl.tiny.weak.faithful, got"),
        ("fastrl.tiny.weak.faithful.__name__", "expected a function of fastrl.tiny.weak.faithful, got"),
    ],
)
def test_functions_must_exist(config, option, path, message):
    changes = {option: path, "diversity": option == "strategy"}
    assert refused(config(**changes)).startswith(f"[faithfulness] {option}: {message}")


def test_a_module_that_breaks_is_not_the_users_name(config, tmp_path, monkeypatch):
    (tmp_path / "my_checks.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        check_config(config(checker="my_checks.aligned"))


def test_there_must_be_enough_problems(config, problems, tmp_path):
    expected = f"[faithfulness] num_problems: expected <= 3, all of {problems}, got 4"
    assert refused(config(num_problems=4)) == expected
    missing = str(tmp_path / "none.jsonl")
    assert missing in refused(config(path=missing), FileNotFoundError)
    more = tmp_path / "more.jsonl"
    more.write_text("".join(json.dumps({"question": f"{k}", "answer": "3"}) + "\n" for k in range(4)))
    check_config(config(num_problems=4, path=str(more)))  # its own file, whatever eval.path has


def test_what_the_policy_writes_after_a_wrong_step_and_a_forced_answer_must_fit(config):
    # 11 of the longest prompt + 100 of a response + the slack <= 512
    check_config(config(slack_tokens=401))
    assert "need 513" in refused(config(slack_tokens=402))
    # or what forces the answer, in bytes, and the answer
    forcing = len("\n\nThe final answer is $\\boxed{")
    check_config(config(answer_tokens=401 - forcing))
    assert "expected a model that holds 513 tokens" in refused(config(answer_tokens=402 - forcing))
    check_config(config(slack_tokens=402, probes=False, checker="fastrl.tiny.weak.faithful.aligned"))


def test_prompts_must_fit_the_judges(config, judge, checkpoints):
    small = replace(judge, model=CheckpointConfig(path=str(checkpoints["llama"])))
    message = refused(config(judge=small))
    assert message.startswith("[faithfulness.judge.model] path: expected a model that holds")
    assert "1 x response + faithfulness.judge.max_new_tokens = 107" in message
    # a template without its places, 9 bytes of the longest problem, 2 of the chat, responses, the reply
    long = {"rollout": RolloutConfig(max_new_tokens=400)}
    alone = len(ALIGNMENT_PROMPT.encode()) - len("{problem}{response}") + 9 + 2 + 400 + 7
    pair = len(DIFFERENCE_PROMPT.encode()) - len("{problem}{first}{second}") + 9 + 2 + 2 * 400 + 7
    assert alone < pair
    for tokens, diversity, need in ((alone, False, alone), (pair, True, pair)):
        room = replace(judge, engine=EngineConfig(max_batch_tokens=tokens))
        check_config(replace(config(judge=room, diversity=diversity), **long))
        tight = replace(judge, engine=EngineConfig(max_batch_tokens=tokens - 1))
        message = refused(replace(config(judge=tight, diversity=diversity), **long))
        assert message.startswith(
            f"[faithfulness.judge.engine] max_batch_tokens: expected >= {need}, got {need - 1}"
        )
    message = refused(config(judge=judge, second_judge=small))
    assert message.startswith("[faithfulness.second_judge.model] path: expected a model that holds")


def test_a_judges_engine_kind_and_device_must_be_usable(config, judge):
    same = replace(judge, engine=EngineConfig(kind="same"))
    expected = "[faithfulness.judge.engine] kind: expected torch or vllm, got 'same'"
    assert refused(config(judge=same)) == expected
    elsewhere = replace(judge, engine=EngineConfig(device="cuda:9"))
    assert refused(config(judge=elsewhere)).startswith("[faithfulness.judge.engine] device: expected one of")


def test_the_first_vllm_of_several_ranks_is_not_one_ranks_judge(config, judge, monkeypatch):
    """It would wait for the others for ever."""
    asked = config(judge=replace(judge, engine=EngineConfig(kind="vllm")))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(asked) == (
        "[faithfulness.judge.engine] kind: expected torch on several ranks, unless an engine that every "
        "rank has is vllm, got 'vllm'"
    )
    check_judges_start(asked.eval.faithfulness, [EngineConfig(kind="vllm")])
    check_config(config(judge=judge))


def test_traces_for_an_executor_are_no_answers(config, checkpoints):
    executor = ExecutorConfig(model=CheckpointConfig(path=str(checkpoints["llama"])), max_trace_chars=50)
    plain = config()
    uplift = replace(
        plain,
        reward=RewardConfig(functions=("uplift",), weights=(1.0,)),
        uplift=UpliftConfig(executor=executor, form="uplift"),
    )
    message = refused(uplift)
    assert message.startswith("[faithfulness] enabled: expected false, since the policy writes traces")


def test_eval_refuses_a_section_that_does_nothing(problems):
    data = DataConfig(path=problems)
    with pytest.raises(ValueError, match=r"\[faithfulness\] enabled: expected true, since other options"):
        EvalOptions(data=data, faithfulness=FaithfulnessConfig(checker="a.b"))
    executor = ExecutorConfig(model=CheckpointConfig(path="some"))
    with pytest.raises(ValueError, match=r"\[faithfulness\] enabled: expected false, since executor.model"):
        EvalOptions(data=data, faithfulness=OWN, executor=executor)


def test_eval_checks_and_measures_from_the_command_line(problems, checkpoints, tmp_path, capsys):
    arguments = [
        "eval", str(checkpoints["qwen3"]), "--data.path", problems, "--num_samples", "2", "--device", "cpu",
        "--faithfulness.enabled", "true", *SIZES,
    ]  # fmt: skip
    assert main([*arguments, "--faithfulness.checker", "my_checks"]) == 2
    error = capsys.readouterr().err
    assert "[faithfulness] checker: expected a dotted path" in error and error.count("\n") == 1
    out = tmp_path / "out"
    flags = ["--faithfulness.num_samples", "2", "--faithfulness.diversity", "true"]
    flags += ["--faithfulness.strategy", "fastrl.tiny.weak.faithful.strategy", "--out", str(out)]
    assert main([*arguments, *flags]) == 0
    printed = capsys.readouterr().out
    assert "faithfulness, " in printed and "diversity, " in printed and "effective" in printed
    metrics = json.loads((out / "results.json").read_text())["metrics"]
    assert metrics["faithfulness/num_problems"] == 3 and metrics["diversity/num_responses"] == 2
    rows = read_jsonl(out / "faithfulness.jsonl")
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, s) for p in range(3) for s in range(2)]
