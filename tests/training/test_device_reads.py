"""Host syncs of a training step: exactly those that update_policy's docstring lists."""

from collections import Counter

import torch
from torch.overrides import TorchFunctionMode

from fastrl.config import TrainConfig
from fastrl.ops import LossConfig, linear_grpo_loss
from fastrl.policy.bad_steps import BadSteps
from fastrl.policy.optimizer import apply_gradients
from fastrl.runtime.distributed import Ranks
from fastrl.training.drift import Drift
from fastrl.training.metrics import loss_metrics
from fastrl.training.update import add_stats

READS = {"item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__"}


class Reads(TorchFunctionMode):
    """Counts the calls that make a GPU's host wait, by name; those of the CPU's own checks do not count."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READS:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def reads(work) -> dict[str, int]:
    with Reads() as mode:
        work()
    return dict(mode.found)


class Plain:
    """A policy as far as the optimiser knows it."""

    device = torch.device("cpu")

    def __init__(self):
        self.weight = torch.nn.Parameter(torch.ones(3, 4))
        self.weight.grad = torch.ones(3, 4)

    def parameters(self):
        return [self.weight]

    def reshard(self):
        pass


def test_the_mode_sees_reads():
    x = torch.ones(2)
    assert reads(lambda: float(x[0]) + x.sum().item() + sum(x.tolist())) == {
        "__float__": 1, "item": 1, "tolist": 1,
    }  # fmt: skip
    assert reads(lambda: x + x) == {}


def test_the_drift_guard_reads_once():
    guard = Drift()
    d, counted = torch.linspace(-0.1, 0.1, 6), torch.ones(6, dtype=torch.bool)
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)
    assert reads(lambda: [guard.add(d, torch.zeros(6), counted, bounds) for _ in range(3)]) == {}
    assert reads(lambda: guard.metrics(Ranks())) == {"tolist": 1}


def test_no_check_inside_torch_reads_the_lengths():
    guard, d = Drift(), torch.zeros(4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        guard.add(d, d, torch.ones(4, dtype=torch.bool), torch.tensor([0, 4], dtype=torch.int32))
    assert "aten::_local_scalar_dense" not in {event.key for event in seen.key_averages()}


def test_an_optimiser_step_reads_the_norm():
    policy, config = Plain(), TrainConfig()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    judge = BadSteps(config)
    assert reads(lambda: apply_gradients(policy, optimizer, config, 0, judge)) == {"__float__": 1}


def test_the_loss_statistics_are_read_at_once():
    stats = {}
    hidden, weight = torch.randn(6, 4), torch.randn(9, 4, requires_grad=True)
    for _ in range(2):
        out = linear_grpo_loss(
            hidden, weight, torch.arange(6), cu_seqlens=torch.tensor([0, 2, 6], dtype=torch.int32),
            advantages=torch.tensor([1.0, -1.0]), loss_mask=torch.ones(6, dtype=torch.bool),
            config=LossConfig(), denominator=6.0,
        )  # fmt: skip
        assert reads(lambda: add_stats(stats, {**out.stats, "loss_sum": out.loss.detach()})) == {}  # noqa: B023
    assert reads(lambda: loss_metrics(stats, Ranks())) == {"tolist": 1}
