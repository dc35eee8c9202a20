"""A masked step's advantages and gradients equal TRL 1.16's with mask_truncated_completions."""

from __future__ import annotations

import pytest
import torch

from fastrl.config import ModelConfig, RewardConfig, RlConfig, RolloutConfig
from fastrl.kernels.config import LossConfig
from fastrl.policy.model import Policy
from fastrl.runtime.distributed import Ranks
from fastrl.training.advantages import fill_advantages
from fastrl.training.update import accumulate_gradients
from fastrl.types import Rollout

pytest.importorskip("trl", reason="trl is not installed")
import trl_world as world

pytestmark = pytest.mark.trains


def rollouts_of(step: world.Step) -> list[Rollout]:
    """The step's rows as TRL's trainer was given them; a row that it masks was cut off at LONGEST tokens."""
    out = []
    for batch in step.micro_batches:
        rows = zip(*(batch.inputs[f"{part}_{what}"] for part in ("prompt", "completion")
                     for what in ("ids", "mask")), strict=True)  # fmt: skip
        for prompt, read, completion, trained in rows:
            ids = completion[trained.bool()] if trained.any() else completion
            reason = "stop" if trained.any() else "length"
            prompt_ids = prompt[read.bool()].tolist()
            out.append(Rollout(prompt_ids, ids.tolist(), [0.0] * len(ids), "", reason, group=-1))
    return out


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
def test_a_step(tmp_path, loss_type):
    folder = world.write_model(tmp_path / "model")
    tokenizer = world.word_tokenizer()
    tokenizer.save_pretrained(folder)
    trainer = world.train(folder, tmp_path / "run", loss_type=loss_type, mask_truncated_completions=True)
    step = trainer.steps[0]
    todo = rollouts_of(step)
    cut = [rollout.finish_reason == "length" for rollout in todo]
    assert any(cut) and not all(cut)

    config = RlConfig(
        rollout=RolloutConfig(max_new_tokens=world.LONGEST, temperature=trainer.temperature),
        reward=RewardConfig(functions=("r",), weights=(1.0,)),
        loss=LossConfig(
            loss_type=loss_type, correction="none", mask_truncated_completions="in_baseline",
            clip_eps_low=0.1, clip_eps_high=0.28,
        ),
    )  # fmt: skip
    prompts = [tuple(tokenizer(prompt)["input_ids"]) for prompt in world.PROMPTS]
    for rollout in todo:
        rollout.group = prompts.index(tuple(rollout.prompt_ids))
        (rollout.reward,) = world.reward([world.PROMPTS[rollout.group]], [rollout.completion_ids])
    fill_advantages(todo, [], config, Ranks())
    theirs = torch.cat([batch.inputs["advantages"] for batch in step.micro_batches]).tolist()
    assert [r.advantage for r in todo] == pytest.approx(
        [0.0 if masked else value for masked, value in zip(cut, theirs, strict=True)], rel=1e-5, abs=1e-6
    )

    policy = Policy.load(ModelConfig(path=str(folder)), torch.device("cpu"))
    none = [None] * len(todo)
    accumulate_gradients(policy, todo, range(len(todo)), none, none, config, Ranks(), {})
    found = {name: parameter.grad for name, parameter in policy.model.named_parameters()}
    assert found.keys() == step.gradients.keys()
    for name, expected in step.gradients.items():
        assert (found[name] - expected).norm() <= 1e-5 * expected.norm() + 1e-9, name
