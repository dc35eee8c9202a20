"""rollout.max_staleness: sampling the next batch during the update gives the bits of doing it in turn."""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_recipe import exit_codes
from tiny_rl import curve as curve_in
from tiny_rl import tiny_rl, write_additions

from fastrl.check import rl as checks
from fastrl.config import (
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    ReceiverEngineConfig,
    RewardConfig,
    RlConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
    TransferConfig,
)
from fastrl.config.load import to_yaml
from fastrl.engine.tree.engine import TorchEngine
from fastrl.kernels.config import LossConfig
from fastrl.report.console import plain_line
from fastrl.runtime.context import Context
from fastrl.runtime.errors import EngineDied, Interrupted
from fastrl.runtime.run import Run, read_metrics
from fastrl.runtime.watchdog import Watchdog
from fastrl.stages import rl
from fastrl.stages.build import build_rl
from fastrl.train import run_stage
from fastrl.training import ahead, evaluation, sample, update
from fastrl.training.advantages import fill_advantages

STEPS, SAVE_EVERY = 5, 3
STALENESS = [0, 1, 1, 0, 1]
"""Of the batches of steps 0 to 4: the first and the one after checkpoint 3 are not sampled ahead."""


@pytest.fixture
def config(checkpoints, tmp_path) -> RlConfig:
    return tiny_rl(
        checkpoints["qwen3"], write_additions(tmp_path / "problems.jsonl"), tmp_path / "run",
        run=RunConfig(save_every=SAVE_EVERY, keep_last=9, log_completions_every=1),
        rollout=RolloutConfig(num_prompts=3, group_size=4, max_new_tokens=10, max_staleness=1),
        train=TrainConfig(num_steps=STEPS, learning_rate=3e-3),
    )  # fmt: skip


def named(config: RlConfig, name: str) -> RlConfig:
    return replace(config, run=replace(config.run, dir=f"{config.run.dir}-{name}"))


def folder_of(config: RlConfig) -> Run:
    return Run(Path(config.run.dir), writes=False)


def curve(config: RlConfig) -> list[dict]:
    return curve_in(Path(config.run.dir))


def completions(config: RlConfig) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder_of(config).completions.iterdir()}


def in_background() -> bool:
    return threading.current_thread().name.startswith("ahead")


def threads_left() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith(("ahead", "rewards"))]


class InTurn:
    """A worker that does its work when it is given: what a thread does in the background, at once."""

    def submit(self, work, *arguments):
        done: Future = Future()
        done.set_result(work(*arguments))
        return done

    def shutdown(self):
        pass


def test_it_is_a_loop_that_samples_the_next_batch_before_the_update(config):
    """That loop, written out: no thread, and nothing of fastrl.training.ahead."""
    parts, context = build_rl(config), Context(config, folder_of(config))
    coming, seen, size = None, [], config.rollout.num_prompts
    for step in range(STEPS):
        parts.sync_engine(version=step)
        batch = coming or sample.sample_groups(context, parts, step, step * size)
        after, coming = step + 1, None
        if after < STEPS and after % SAVE_EVERY:
            coming = sample.sample_groups(context, parts, after, after * size)
        assert batch.staleness == STALENESS[step]
        seen.append([(rollout.completion_ids, rollout.rollout_logprobs) for rollout in batch.rollouts])
        fill_advantages(batch.rollouts, parts.rewards, config, context.ranks)
        update.update_policy(context, parts, batch.rollouts, step)
    expected = {name: tensor.clone() for name, tensor in parts.policy.named_weights()}
    parts.close()

    run_stage(config)
    rows = [rows_of(config, step + 1) for step in range(STEPS)]
    assert [[(row["completion_ids"], row["rollout_logprobs"]) for row in each] for each in rows] == seen
    learnt = build_rl(config, folder_of(config).checkpoints / f"step-{STEPS:06d}")
    learnt.close()
    for name, tensor in learnt.policy.named_weights():
        assert torch.equal(tensor, expected[name]), name
    assert threads_left() == []


def rows_of(config: RlConfig, step: int) -> list[dict]:
    text = completions(config)[f"step-{step:06d}.jsonl"]
    return [json.loads(line) for line in text.splitlines()]


def test_again_in_turn_and_on_policy(config, monkeypatch):
    """Twice the same bits, and the same as without a thread; evaluations are of the newest weights."""
    evaluated = EvalConfig(path=config.data.path, every=2, num_samples=1, limit=2)
    again, in_turn, fresh = (named(config, name) for name in ("again", "turn", "fresh"))
    fresh = replace(fresh, rollout=replace(fresh.rollout, max_staleness=0))
    asked, evaluate = [], evaluation.evaluate

    def noted(engine, *arguments, **options):
        asked.append(engine.weights_version)
        return evaluate(engine, *arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", noted)
    for each in (config, again, fresh):
        run_stage(replace(each, eval=evaluated))
    with monkeypatch.context() as patch:
        patch.setattr(ahead, "one_thread", lambda name: InTurn())
        run_stage(replace(in_turn, eval=evaluated))
    assert curve(config) == curve(again) == curve(in_turn)
    assert completions(config) == completions(again) == completions(in_turn)
    assert asked == [0, 2, 4, 5] * 4

    lines, on_policy = curve(config)[1:], curve(fresh)[1:]
    assert [line["rollout/staleness"] for line in lines] == STALENESS
    assert lines[0]["grad_norm"] == on_policy[0]["grad_norm"] and lines[1]["reward"] != on_policy[1]["reward"]
    for stale, line in zip(STALENESS, lines, strict=True):
        # the update shows in what corrects it
        assert (line["drift/ess_tokens"] < 0.9999) == bool(stale)
        assert (line["sampling/importance_sampling_ratio/max"] > 1.01) == bool(stale)
    assert "rollout/staleness" not in on_policy[0]
    assert min(line["drift/ess_tokens"] for line in on_policy) > 0.9999


def test_sampling_and_update_overlap(config, monkeypatch):
    """Each waits until the other has begun: in turn, neither would end."""
    sampling, learning = threading.Event(), threading.Event()
    generate, learn = TorchEngine.generate, rl.update_policy
    entered: list[tuple[bool, str]] = []

    def generates(engine, *arguments, **options):
        if in_background():
            sampling.set()
            assert learning.wait(60)
        return generate(engine, *arguments, **options)

    def learns(context, parts, rollouts, step):
        learning.set()
        assert step or sampling.wait(60)
        return learn(context, parts, rollouts, step)

    monkeypatch.setattr(TorchEngine, "generate", generates)
    monkeypatch.setattr(rl, "update_policy", learns)
    enter = Watchdog.enter
    monkeypatch.setattr(
        Watchdog, "enter", lambda dog, phase: entered.append((in_background(), phase)) or enter(dog, phase)
    )
    run_stage(replace(config, train=replace(config.train, num_steps=2)))
    assert not any(there for there, _ in entered)  # its clock is the loop's
    phases = [phase for _, phase in entered if not phase.startswith("after")]
    assert phases == [
        "start", "weight_sync", "rollout", "reward", "update", "wait", "weight_sync", "update", "checkpoint"
    ]  # fmt: skip
    first, second = read_metrics(folder_of(config).metrics_file)[1:]
    inside = first["time/ahead_rollout_s"] + first["time/ahead_reward_s"]
    assert first["time/ahead_s"] >= max(inside, first["time/wait_s"]) and inside > 0
    assert "time/ahead_s" not in second and "time/wait_s" not in second and "time/rollout_s" not in second
    # what went on in the background is no part of the step's time
    times = {"time/update_s": 2.0, "time/wait_s": 0.5, "time/ahead_s": 2.5, "time/ahead_rollout_s": 2.4}
    assert plain_line(1, 2, {}, times) == "step 1/2 | 2.50s"


def test_receivers_refills_and_several_updates(config, checkpoints, monkeypatch):
    """All that sampling can do, with a receiver that works next to the policy's engine."""
    full = replace(
        config,
        run=replace(config.run, save_every=0),
        rollout=replace(config.rollout, dynamic_sampling=True, max_refills=2),
        reward=RewardConfig(functions=("transfer", "reward_functions.vowels"), weights=(1.0, 1.0)),
        transfer=TransferConfig(
            receiver=CheckpointConfig(path=str(checkpoints["llama"])), slack_tokens=4, num_cuts=2
        ),
        loss=LossConfig(kl_coef=0.1, correction="sequence_mask"),
        train=TrainConfig(num_steps=3, learning_rate=1e-3, epochs_per_batch=2),
    )
    build = rl.build_rl

    def of_its_own_device(*arguments):
        parts = build(*arguments)
        parts.overlap = True
        return parts

    monkeypatch.setattr(rl, "build_rl", of_its_own_device)
    run_stage(full)
    with monkeypatch.context() as patch:
        patch.setattr(ahead, "one_thread", lambda name: InTurn())
        run_stage(in_turn := named(full, "turn"))
    assert curve(full) == curve(in_turn) and completions(full) == completions(in_turn)
    lines = curve(full)[1:]
    assert [line["rollout/staleness"] for line in lines] == [0, 1, 1]
    assert all(line["frac_reward_zero_std"] == 0 and line["kl"] is not None for line in lines)
    assert sum(line["engine/receiver/requests"] for line in lines) >= 3 * 3 * 4 * 2
    assert threads_left() == []


@pytest.mark.long
def test_a_run_killed_anywhere_resumes_bit_for_bit(config, tmp_path):
    run_stage(config)
    killed = named(config, "killed")
    (tmp_path / "recipe.yaml").write_text(to_yaml(killed))
    # when the first checkpoint gets its name; and at the end of step 5, two steps beyond it
    deaths = ["os.rename:.step-000003.partial:1", "open:.step-000005.jsonl.*.tmp:1"]
    assert exit_codes(tmp_path / "recipe.yaml", deaths) == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert curve(killed) == curve(config) and completions(killed) == completions(config)


def test_a_signal_discards_the_batch_and_the_resumed_run_samples_it_again(config, monkeypatch):
    """Batch 2 was being sampled, or there: its prompts come again, and new weights answer."""
    run_stage(config)
    told, learn = named(config, "told"), rl.update_policy

    def learns(context, parts, rollouts, step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(context, parts, rollouts, step)

    with monkeypatch.context() as patch:
        patch.setattr(rl, "update_policy", learns)
        with pytest.raises(Interrupted) as left:
            run_stage(told)
    assert left.value.code == 143 and threads_left() == []
    assert curve(told) == curve(config)[:3]
    run_stage(told)
    assert [line["rollout/staleness"] for line in curve(told)[1:]] == [0, 1, 0, 0, 1]
    for step in range(1, STEPS + 1):
        prompts = [[row["prompt"] for row in rows_of(each, step)] for each in (told, config)]
        assert prompts[0] == prompts[1]
    assert curve(told)[3]["reward"] != curve(config)[3]["reward"]


def failing(real, error):
    def fails(self, *arguments, **options):  # by this name an engine is known in a trace
        if in_background():
            raise error
        return real(self, *arguments, **options)

    return fails


def test_an_engine_that_fails_in_the_background_is_reported(config, monkeypatch):
    monkeypatch.setattr(TorchEngine, "generate", failing(TorchEngine.generate, RuntimeError("device lost")))
    with pytest.raises(
        EngineDied, match=r"\[engine\] policy: failed in phase 'rollout': RuntimeError: device"
    ) as died:
        run_stage(config)
    cause = died.value.__cause__
    assert isinstance(cause, RuntimeError)
    frames = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
    assert frames[0] == "train" and frames[-3:] == ["scored_groups", "generate", "fails"]
    assert threads_left() == [] and [line["step"] for line in curve(config)] == [0]


@pytest.mark.parametrize("place", ["reward", "update"])
def test_an_error_passes_as_it_is(config, monkeypatch, place):
    """An error of a reward during the update, or of the update while the other thread still samples."""
    error, ended = ValueError("[reward] vowels: expected a good day"), []
    if place == "reward":
        monkeypatch.setattr(sample, "reward_rollouts", failing(sample.reward_rollouts, error))
    else:
        begun, raised, generate = threading.Event(), threading.Event(), TorchEngine.generate

        def generates(engine, *arguments, **options):
            if in_background():
                begun.set()
                assert raised.wait(60)
            found = generate(engine, *arguments, **options)
            ended.append(in_background())
            return found

        def learns(*arguments):
            assert begun.wait(60)
            raised.set()
            raise error

        monkeypatch.setattr(TorchEngine, "generate", generates)
        monkeypatch.setattr(rl, "update_policy", learns)
    with pytest.raises(ValueError) as seen:
        run_stage(config)
    assert seen.value is error and threads_left() == []
    assert ended == ([False, True] if place == "update" else [])


def test_a_worker_has_the_gpu_of_its_maker(monkeypatch):
    """A thread's own would be the first one, whatever the rank."""
    set_by: list[tuple[str, int]] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: set_by.append((threading.current_thread().name, device))
    )
    with sample.one_thread("ahead") as worker:
        assert worker.submit(in_background).result()
    assert set_by == [("ahead_0", 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": EngineConfig(sleep=True)}, r"\[engine\] sleep: expected false, since rollout.max_stal"),
        ({"loss": LossConfig(correction="none")}, r"\[loss\] correction: expected one that corrects, since"),
        ({"run": RunConfig(save_every=1)}, r"\[run\] save_every: expected 0 or > 1, since rollout.ma"),
        (
            {"reward": RewardConfig(functions=("entropy", "self_certainty"), weights=(1.0, 1.0))},
            r"\[rollout\] max_staleness: expected 0 with the reward entropy, which runs the policy, got 1",
        ),
        (
            {
                "reward": RewardConfig(functions=("transfer",), weights=(1.0,)),
                "transfer": TransferConfig(engine=ReceiverEngineConfig(kind="torch", sleep=True)),
            },
            r"\[transfer.engine\] sleep: expected false, since rollout.max_staleness is 1, got True",
        ),
    ],
    ids=["sleep", "uncorrected", "every-step", "asks-the-policy", "receiver-sleeps"],
)  # fmt: skip
def test_what_would_share_with_the_update_is_refused(config, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)
    replace(config, rollout=replace(config.rollout, max_staleness=0), **changes)


def test_engines_stay_off_the_policys_gpus(config, monkeypatch):
    """Two ranks on this machine: their policies have cuda:0 and cuda:1."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    gpu = torch.device("cuda", 0)
    for device, fits in (("cpu", True), ("cuda:2", True), ("auto", False), ("cuda:1", False)):
        asked = replace(config, engine=EngineConfig(device=device))
        checks.check_devices(asked, torch.device("cpu"))
        if fits:
            checks.check_devices(asked, gpu)
            continue
        with pytest.raises(
            ValueError, match=r"\[engine\] device: expected none of the policy's cuda:0, cuda:1, si"
        ):
            checks.check_devices(asked, gpu)
        checks.check_devices(replace(asked, rollout=replace(asked.rollout, max_staleness=0)), gpu)
