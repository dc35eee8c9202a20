"""A step's gradient does not depend on micro-batches or on left-out rollouts."""

from dataclasses import replace

import pytest
import torch
from accumulated import gradients, rollouts

from fastrl.config import ModelConfig, RewardConfig, RlConfig, RolloutConfig, TrainConfig
from fastrl.kernels.config import LossConfig
from fastrl.policy.model import Policy
from fastrl.runtime.distributed import Ranks
from fastrl.training.update import score_rollouts, split_groups
from fastrl.types import Rollout

CPU = torch.device("cpu")
LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "gspo", "cispo", "rloo"]


def config(budget: int, **loss) -> RlConfig:
    return RlConfig(
        rollout=RolloutConfig(max_new_tokens=40),
        reward=RewardConfig(baseline="leave_one_out"),
        train=TrainConfig(tokens_per_microbatch=budget),
        loss=LossConfig(**loss),
    )


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("extra", [{}, {"kl_coef": 0.1, "entropy_coef": 0.01}])
def test_uneven_microbatches_give_the_single_batch_gradient(checkpoints, loss_type, extra):
    todo = rollouts(260)
    whole = gradients(checkpoints["qwen3"], config(10**6, loss_type=loss_type, **extra), todo)
    assert any(grad.abs().max() > 1e-6 for grad in whole)
    for budget in (30, 75):
        cut = gradients(checkpoints["qwen3"], config(budget, loss_type=loss_type, **extra), todo)
        for a, b in zip(whole, cut, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(whole[0].abs().max()))


def test_leaving_out_zero_advantages_keeps_the_denominator(checkpoints):
    todo = rollouts(260)
    without = [r for r in todo if r.advantage != 0]
    missing = sum(len(r.completion_ids) for r in todo if r.advantage == 0)
    total = sum(len(r.completion_ids) for r in todo)
    a = gradients(checkpoints["qwen3"], config(10**6), todo)
    b = gradients(checkpoints["qwen3"], config(10**6), without, old_noise=0.0)
    c = gradients(checkpoints["qwen3"], config(10**6), todo, old_noise=0.0)
    for with_zero, alone in zip(c, b, strict=True):
        torch.testing.assert_close(with_zero * total / (total - missing), alone, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(x, y) for x, y in zip(a, c, strict=True))


def test_split_groups_keeps_groups_whole():
    todo = rollouts(260)
    parts = split_groups(todo, 2, Ranks())
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert [sorted({todo[i].group for i in part}) for part in parts] == [[0, 1], [2]]


def test_split_groups_considers_all_ranks():
    """Of five groups three are learnt from first, whoever has them; four ranks have 0 and 4, 1, 2, 3."""

    class Four(Ranks):
        def gather(self, values):
            return [0, 4, 1, 2, 3]

    alone = [Rollout([4], [5], [-1.0], "", "stop", group=group) for group in (0, 4)]
    assert split_groups(alone, 2, Four()) == [[0], [1]]
    assert split_groups([replace(alone[0], group=3)], 2, Four()) == [[], [0]]
    assert split_groups([], 2, Four()) == [[], []]


def test_score_rollouts_lines_up_with_each_rollout(checkpoints):
    policy = Policy.load(ModelConfig(path=str(checkpoints["llama"])), CPU)
    todo = rollouts(260)
    together = score_rollouts(policy, todo, config(10**6))
    alone = [score_rollouts(policy, [r], config(10**6))[0] for r in todo]
    assert together[2] is None and alone[2] is None
    for r, a, b in zip(todo, together, alone, strict=True):
        if a is not None:
            assert len(a) == len(r.completion_ids)
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
