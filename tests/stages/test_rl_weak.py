"""Training on proxies, noisy labels and few problems; alarms that end it; through fastrl train."""

import json
import os
import signal
from dataclasses import replace

import pytest
from forked import run_forked
from jsonl import write_jsonl
from tiny_rl import tiny_rl
from transformers import AutoModelForCausalLM

import fastrl.stages.build
from fastrl.config import (
    AlarmConfig,
    EvalConfig,
    LabelConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    with_option,
)
from fastrl.methods.weak.noise import corrupted_places
from fastrl.runtime.run import read_metrics
from fastrl.stages import rl
from fastrl.train import run_stage

PROXIES = ("majority", "self_certainty", "entropy", "random", "label")
NEVER = AlarmConfig(
    min_entropy_ratio=None,
    length_factor=None,
    max_clipped_fraction=None,
    max_common_share=None,
    min_agreement_ratio=None,
)
SILENT = ("alarm/", "time/")


def write_problems(folder, number=6):
    path = folder / f"problems-{number}.jsonl"
    rows = [
        {"question": f"{a}+{a + 1}", "answer": f"{2 * a + 1}", "wrong_label": "77"} for a in range(number)
    ]
    write_jsonl(path, rows)
    return path


@pytest.fixture
def problems(tmp_path):
    return write_problems(tmp_path)


def config(checkpoints, problems, folder, rewards=("majority",), **changes) -> RlConfig:
    base = tiny_rl(
        checkpoints["qwen3"], problems, folder,
        run=RunConfig(save_every=1, log_completions_every=1),
        rollout=RolloutConfig(num_prompts=4, group_size=4, max_new_tokens=8),
        reward=RewardConfig(functions=rewards, weights=(1.0,) * len(rewards)),
        train=TrainConfig(num_steps=2, learning_rate=1e-3),
    )  # fmt: skip
    return replace(base, **changes)


@pytest.fixture
def says(monkeypatch):
    """A random model answers nothing: its tokens stay, and their text is given by (question, sample)."""
    build = fastrl.stages.build.build_rl

    def set_rule(rule):
        def speaking(config, checkpoint=None):
            parts = build(config, checkpoint)
            generate = parts.engine.generate

            def spoken(prompts, *arguments, **options):
                found = generate(prompts, *arguments, **options)
                for prompt, group in zip(prompts, found, strict=True):
                    question = parts.policy.tokenizer.decode(prompt)
                    for j, completion in enumerate(group):
                        completion.text = rule(question, j)
                return found

            parts.engine.generate = spoken
            return parts

        monkeypatch.setattr("fastrl.stages.rl.build_rl", speaking)

    return set_rule


def curve(folder, without=("time/",)) -> list[dict]:
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(without)} for line in lines]


def rows_of(folder, step) -> list[dict]:
    text = (folder / f"completions/step-{step:06d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def same_weights(a, b) -> bool:
    left, right = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (a, b))
    return all((left[name] == right[name]).all() for name in left)


def box(answer) -> str:
    return f"\\boxed{{{answer}}}"


@pytest.mark.parametrize("reward", PROXIES)
def test_a_proxy_trains_and_the_gold_reward_is_logged(checkpoints, problems, tmp_path, says, reward):
    """Two steps; the hidden gold metric is there, and changes no bit of what is learnt."""
    says(lambda question, j: box(j % 2))
    cfg = config(checkpoints, problems, tmp_path / "run", (reward,), labels=LabelConfig(share=0.5))
    cfg = replace(cfg, rollout=replace(cfg.rollout, num_voters=2 if reward == "majority" else 0))
    final = run_stage(cfg)
    for line in curve(tmp_path / "run")[1:]:
        wanted = {f"rewards/{reward}/mean", "rewards/answer/mean", "groups/too_easy", "groups/effective"}
        wanted |= {"answers/agreement", "answers/most_common_share", "alarm/collapse", "alarm/saturated"}
        assert wanted <= set(line)
        assert line["reward"] == line[f"rewards/{reward}/mean"]
        assert line["groups/too_easy"] + line["groups/too_hard"] + line["groups/effective"] == pytest.approx(
            1
        )
    assert any(line["grad_norm"] > 0 for line in curve(tmp_path / "run")[1:])
    rows = rows_of(tmp_path / "run", 1)
    assert len(rows) == 16 and all(set(row["rewards"]) == {reward, "answer"} for row in rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RlConfig, "weighted_rewards", property(lambda self: {reward: 1.0}))
        bare = run_stage(with_option(cfg, "run.dir", str(tmp_path / "bare")))
    assert same_weights(final, bare)
    without = ("time/", "rewards/answer/", "verify/")
    assert curve(tmp_path / "run", without) == curve(tmp_path / "bare", without)


def test_a_vote_that_differs_from_gold_is_trained_on(checkpoints, problems, tmp_path, says):
    """Gold is stated once in four; 5 is voted for, by the voters' help, and earns the advantage."""

    def rule(question, j):
        a, _, b = question.removeprefix("<user>").removesuffix("<assistant>").partition("+")
        gold = int(a) + int(b)
        return box((50, 50, gold, "-")[j] if j < 4 else 90)

    says(rule)
    voting = RolloutConfig(num_prompts=4, group_size=4, max_new_tokens=8, num_voters=3)
    run_stage(config(checkpoints, problems, tmp_path / "run", rollout=voting))
    for step in (1, 2):
        for row in rows_of(tmp_path / "run", step):
            assert row["pseudo_label"] == "90" and row["rewards"]["majority"] == 0
    line = curve(tmp_path / "run")[1]
    assert line["engine/policy/requests"] == 4 * 7 and line["majority/agreement"] == pytest.approx(3 / 7)
    assert line["majority/label_right"] == 0 and line["rewards/answer/mean"] == 0.25
    assert line["num_tokens"] < line["engine/policy/generated_tokens"]

    alone = replace(voting, num_voters=0)
    run_stage(config(checkpoints, problems, tmp_path / "alone", rollout=alone))
    for row in rows_of(tmp_path / "alone", 1):
        assert row["pseudo_label"] == "50"
        assert (row["advantage"] > 0) == (row["completion"] == box(50))
    assert curve(tmp_path / "alone")[1]["grad_norm"] > 0


def test_a_wrong_label_is_trained_on(checkpoints, problems, tmp_path, says):
    """Half the problems say 77: there, and there alone, 77 earns the advantage and gold loses it."""

    def rule(question, j):
        a, _, b = question.removeprefix("<user>").removesuffix("<assistant>").partition("+")
        return box(int(a) + int(b) if j % 2 else 77)

    says(rule)
    noisy = config(
        checkpoints, problems, tmp_path / "run", ("label",), labels=LabelConfig(share=0.5),
        rollout=RolloutConfig(num_prompts=6, group_size=4, max_new_tokens=8),
    )  # fmt: skip
    run_stage(noisy)
    bad = corrupted_places(range(6), 0.5, 0)
    assert len(bad) == 3
    for step in (1, 2):
        rows = rows_of(tmp_path / "run", step)
        assert sum(row["corrupted"] for row in rows) == 12
        for row in rows:
            item = int(row["prompt"].removeprefix("<user>").partition("+")[0])
            assert row["corrupted"] == (item in bad)
            assert (row["advantage"] > 0) == ((row["completion"] == box(77)) == (item in bad))
            assert row["rewards"]["answer"] == float(row["completion"] != box(77))
        line = curve(tmp_path / "run")[step]
        assert line["labels/corrupted"] == 0.5 and line["rewards/answer/mean"] == 0.5


@pytest.mark.parametrize("number", [1, 2, 3])
def test_fewer_problems_than_prompts_repeat(checkpoints, tmp_path, says, number):
    """Eight prompts of one to three problems: eight groups, each with its own vote and advantages."""
    asked = {}

    def rule(question, j):
        # the k-th group of a problem mostly answers k
        asked[question] = asked.get(question, -1) + (j == 0)
        return box(asked[question] if j < 2 else 40 + j)

    says(rule)
    scarce = RolloutConfig(num_prompts=8, group_size=3, max_new_tokens=8)
    cfg = config(
        checkpoints, write_problems(tmp_path, number), tmp_path / "run", ("majority", "self_certainty"),
        rollout=scarce, train=TrainConfig(num_steps=1, learning_rate=1e-3),
    )  # fmt: skip
    run_stage(cfg)
    rows = rows_of(tmp_path / "run", 1)
    assert [row["group"] for row in rows] == [group for group in range(8) for _ in range(3)]
    assert len({row["prompt"] for row in rows}) == number
    met: dict[str, int] = {}
    for group in range(8):
        own = rows[3 * group : 3 * group + 3]
        label = str(met.setdefault(own[0]["prompt"], 0))
        met[own[0]["prompt"]] += 1
        assert [row["pseudo_label"] for row in own] == [label] * 3
        assert [row["rewards"]["majority"] for row in own] == [1, 1, 0]
        assert sum(row["advantage"] for row in own) == pytest.approx(0, abs=1e-5)
    line = curve(tmp_path / "run")[1]
    assert line["groups_drawn"] == 8 and line["groups/effective"] == 1
    assert ("answers/most_common_share" in line) == (number > 1)


def always_zero(question, j):
    return box(0)


def test_an_alarm_changes_no_bit_until_it_ends_the_run(checkpoints, problems, tmp_path, says):
    says(always_zero)
    rewards = ("self_certainty",)
    collapse = AlarmConfig(
        span=2, patience=2, max_common_share=0.9, min_entropy_ratio=None, length_factor=None
    )
    cfg = config(
        checkpoints, problems, tmp_path / "on", rewards, train=TrainConfig(num_steps=6, learning_rate=1e-3),
        alarm=collapse, eval=EvalConfig(path=str(problems), num_samples=1, limit=1),
    )  # fmt: skip
    full = run_stage(cfg)
    off = run_stage(with_option(replace(cfg, alarm=NEVER), "run.dir", str(tmp_path / "off")))
    assert same_weights(full, off) and curve(tmp_path / "on", SILENT) == curve(tmp_path / "off", SILENT)
    # span + patience steps of a share of 1 are needed; every answer is 0
    assert [line["alarm/collapse"] for line in curve(tmp_path / "on")[1:]] == [0, 0, 0, 1, 1, 1]
    assert [line["alarm/collapse"] for line in curve(tmp_path / "off")[1:]] == [0] * 6

    stopping = with_option(
        replace(cfg, alarm=replace(collapse, stop_on=("collapse",))), "run.dir", str(tmp_path / "stop")
    )
    assert run_stage(stopping) == tmp_path / "stop/checkpoints/step-000004"
    stopped = curve(tmp_path / "stop")
    assert [line["step"] for line in stopped] == [0, 1, 2, 3, 4]
    assert "eval/avg@1" in stopped[-1] and "eval/avg@1" not in stopped[-2]  # as after a last step
    expected = curve(tmp_path / "on")
    assert {key: stopped[4][key] for key in expected[4]} == expected[4]
    # started again, it stays ended; without the rule it goes on to the run that never stopped
    assert run_stage(stopping) == tmp_path / "stop/checkpoints/step-000004"
    assert curve(tmp_path / "stop") == stopped
    freed = run_stage(replace(stopping, alarm=replace(stopping.alarm, stop_on=())))
    assert freed == tmp_path / "stop/checkpoints/step-000006" and same_weights(freed, full)


def test_saturation_ends_a_run_too(checkpoints, problems, tmp_path, says, capsys):
    says(lambda question, j: box(j))
    alarm = replace(NEVER, saturation_patience=3, span=1, stop_on=("saturation",))
    train = TrainConfig(num_steps=9, learning_rate=1e-3)
    final = run_stage(config(checkpoints, problems, tmp_path / "run", alarm=alarm, train=train))
    # the vote's reward is 1 of 4 in every step, so step 4 is the first with one so good three steps ago
    assert final.name == "step-000004"
    assert [line["alarm/saturated"] for line in curve(tmp_path / "run")[1:]] == [0, 0, 0, 1]
    assert capsys.readouterr().err.count("alarm/saturated: reward has not risen in 3 steps") == 1


def killed_in_alarms(config, step):
    """Run the stage until the alarms judge a step for the n-th time, and die."""
    judge, steps = rl.Alarms.judge, 0

    def judged(self, metrics):
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return judge(self, metrics)

    rl.Alarms.judge = judged
    run_stage(config)


def test_a_killed_run_alarms_at_the_same_step(checkpoints, problems, tmp_path):
    """A random model is clipped throughout; killed in step 3, and in the step that ends the run."""
    alarm = replace(NEVER, span=2, patience=2, max_clipped_fraction=0.5, stop_on=("collapse",))
    cfg = config(
        checkpoints, problems, tmp_path / "whole", ("random",), alarm=alarm,
        rollout=RolloutConfig(num_prompts=2, group_size=2, max_new_tokens=2),
        train=TrainConfig(num_steps=9, learning_rate=1e-3),
    )  # fmt: skip
    cfg = with_option(cfg, "run.save_every", 2)
    assert run_stage(cfg).name == "step-000004"
    killed = with_option(cfg, "run.dir", str(tmp_path / "killed"))
    for step in (3, 2):  # counted in each process: step 3 of the run, then step 4
        assert run_forked(killed_in_alarms, killed, step).code == -signal.SIGKILL
    assert run_stage(killed).name == "step-000004"
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    ends = [tmp_path / name / "checkpoints/step-000004" for name in ("killed", "whole")]
    assert same_weights(*ends)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": LabelConfig(share=0.5, column="nowhere")},
            r"\[labels\] column: expected one of the columns question, answer, wrong_label, got 'nowhere'",
        ),
        (
            {"rollout": RolloutConfig(num_voters=4)},
            r"\[rollout\] num_voters: expected 0, since no reward uses votes, got 4",
        ),
        (
            {"reward": RewardConfig(functions=("certainty",), weights=(1.0,))},
            r"\[reward\] functions: expected answer, format, .*label or a dotted path .*got 'certainty'",
        ),
    ],
)
def test_refused_before_a_model_is_loaded(checkpoints, problems, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("fastrl.stages.rl.build_rl", None)
    with pytest.raises(ValueError, match=message):
        run_stage(replace(config(checkpoints, problems, tmp_path / "run", ("label",)), **changes))


def test_voters_are_counted_before_a_run(checkpoints, problems, tmp_path):
    cfg = config(checkpoints, problems, tmp_path / "run")
    assert "voters_per_step" not in fastrl.config.derived(cfg)
    assert fastrl.config.derived(with_option(cfg, "rollout.num_voters", 3))["voters_per_step"] == 12
