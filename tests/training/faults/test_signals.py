"""SIGTERM, and SIGINT once: the step is finished, a checkpoint written, and the next start goes on."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from fault_world import bits, fault_config
from jsonl import write_jsonl
from tiny_rl import curve

from fastrl.config import DataConfig, ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.runtime.context import Context
from fastrl.runtime.errors import Fault, Interrupted, exit_code
from fastrl.train import run_stage
from fastrl.training import guards, learner, update


def signal_at(monkeypatch, module, number, *signals):
    """The n-th optimiser step of a stage's update is followed by these signals to the process."""
    real, calls = module.apply_gradients, 0

    def apply(*arguments):
        nonlocal calls
        calls += 1
        norm = real(*arguments)
        for each in signals if calls == number else ():
            os.kill(os.getpid(), each)
        return norm

    monkeypatch.setattr(module, "apply_gradients", apply)


@pytest.mark.parametrize(
    ("number", "code", "async_save"),
    [(signal.SIGTERM, 143, False), (signal.SIGTERM, 143, True), (signal.SIGINT, 130, False)],
)
def test_a_stage_leaves_a_checkpoint_and_resumes(
    checkpoints, tmp_path, monkeypatch, capsys, number, code, async_save
):
    before = signal.getsignal(number)
    configs = [fault_config(checkpoints["qwen3"], tmp_path, name) for name in ("whole", "ended")]
    configs[1] = replace(configs[1], run=replace(configs[1].run, async_save=async_save))
    run_stage(configs[0])
    with monkeypatch.context() as patch:
        # twice at once is once: a terminal and torchrun may both have sent it
        signal_at(patch, update, 3, number, number)
        assert exit_code(lambda: 0 if run_stage(configs[1]) else 1) == code
    assert signal.getsignal(number) is before
    said = capsys.readouterr().err
    assert f"fastrl: {number.name}: finishing the step, then saving a checkpoint" in said
    assert f"stopped with the checkpoint {tmp_path / 'ended/checkpoints/step-000003'}" in said
    assert [line["step"] for line in curve(tmp_path / "ended")] == [0, 1, 2, 3]
    run_stage(configs[1])
    assert curve(tmp_path / "ended") == curve(tmp_path / "whole")
    assert bits(tmp_path / "ended") == bits(tmp_path / "whole")


def test_fine_tuning_leaves_a_checkpoint_too(checkpoints, tmp_path, monkeypatch):
    rows = [{"prompt": f"{n}+1", "completion": str(n + 1)} for n in range(7)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    base = SftConfig(
        run=RunConfig(dir=str(tmp_path / "whole"), save_every=0),
        model=ModelConfig(path=str(checkpoints["llama"])),
        data=DataConfig(path=str(tmp_path / "rows.jsonl")),
        train=TrainConfig(num_steps=5, learning_rate=1e-3),
        batch_size=3,
    )
    run_stage(base)
    config = replace(base, run=replace(base.run, dir=str(tmp_path / "ended")))
    with monkeypatch.context() as patch:
        signal_at(patch, learner, 2, signal.SIGTERM)
        with pytest.raises(Interrupted) as left:
            run_stage(config)
    assert left.value.code == 143
    assert [path.name for path in (tmp_path / "ended/checkpoints").iterdir()] == ["step-000002"]
    run_stage(config)
    assert curve(tmp_path / "ended") == curve(tmp_path / "whole")
    assert bits(tmp_path / "ended", 5) == bits(tmp_path / "whole", 5)


def test_the_second_interrupt_ends_at_once(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(guards, "SAME_S", 0.0)
    config = fault_config(checkpoints["qwen3"], tmp_path)
    guard = guards.Guards(Context.start(config), None, None)

    def stuck() -> int:
        with guard:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second one was not heard")

    assert exit_code(stuck) == 130
    assert "fastrl: interrupted" in capsys.readouterr().err


def test_a_checkpoint_that_was_being_written_is_cleared_away_at_the_next_start(checkpoints, tmp_path):
    config = fault_config(checkpoints["qwen3"], tmp_path)
    context = Context.start(config)
    run = context.run
    (run.checkpoints / ".step-000007.partial").mkdir()
    (run.checkpoints / ".step-000007.partial/model.safetensors").write_bytes(b"half")
    (run.checkpoints / "step-000006").mkdir()
    with guards.Guards(context, None, None):
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-000006"]


def test_a_fault_without_a_place_keeps_its_traceback(capsys):
    def fails() -> int:
        raise Fault("no brackets")

    with pytest.raises(Fault):
        exit_code(fails)
    assert capsys.readouterr().err == ""


def test_what_is_not_of_the_machine_passes_as_it_is(checkpoints, tmp_path):
    config = fault_config(checkpoints["qwen3"], tmp_path)
    error = ValueError("[reward] vowels: expected finite numbers or None, got nan")
    with pytest.raises(ValueError) as seen, guards.Guards(Context.start(config), None, None):
        raise error
    assert seen.value is error
