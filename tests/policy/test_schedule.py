"""Learning rates by hand, and against transformers' get_scheduler."""

from dataclasses import replace

import pytest
import torch
from transformers import get_scheduler

from fastrl.config import TrainConfig
from fastrl.policy.schedule import learning_rate

TRAIN = TrainConfig(num_steps=10, warmup_steps=2, learning_rate=1.0)


def rates(kind: str, floor: float = 0.0, **changes) -> list[float]:
    config = replace(TRAIN, lr_scheduler_type=kind, min_lr_rate=floor, **changes)
    return [learning_rate(step, config) for step in range(config.num_steps)]


def test_by_hand():
    # two steps of warm-up, then d = 0, 1/8, ... 7/8
    assert rates("constant") == [0.5] + [1.0] * 9
    assert rates("linear") == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rates("linear", 0.2)[6] == pytest.approx(0.6) and rates("linear", 1.0) == [0.5] + [1.0] * 9
    cosine = rates("cosine")
    assert cosine[:3] == [0.5, 1.0, 1.0] and cosine[6] == pytest.approx(0.5)
    # (1 + cos(7 pi / 8)) / 2
    assert cosine[9] == pytest.approx(0.0380602337)
    assert rates("cosine", 0.1)[9] == pytest.approx(0.1 + 0.9 * 0.0380602337)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_it_stays_at_its_end(kind):
    config = replace(TRAIN, lr_scheduler_type=kind, min_lr_rate=0.25, learning_rate=0.4)
    assert [learning_rate(step, config) for step in (10, 11, 1000)] == pytest.approx([0.1] * 3, rel=1e-12)
    # all steps are warm-up
    assert learning_rate(3, replace(config, num_steps=4, warmup_steps=4)) == 0.4


THEIRS = {
    ("constant", 0.0): ("constant_with_warmup", {}),
    ("linear", 0.0): ("linear", {}),
    ("linear", 0.1): ("polynomial", {"lr_end": 0.1 * 3e-4, "power": 1.0}),
    ("cosine", 0.0): ("cosine", {}),
    ("cosine", 0.1): ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
}


@pytest.mark.parametrize(("kind", "floor"), THEIRS)
@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0), (7, 0), (10, 1), (100, 13), (9, 8)])
def test_equals_transformers(kind, floor, num_steps, warmup):
    name, options = THEIRS[kind, floor]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = get_scheduler(name, optimizer, warmup, num_steps, scheduler_specific_kwargs=options)
    theirs = []
    for _ in range(num_steps + 1):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = rates(kind, floor, num_steps=num_steps, warmup_steps=warmup, learning_rate=3e-4)
    # theirs begins at 0: in warm-up ours is a step ahead, and never 0
    expected = [theirs[step + 1] if step < warmup else theirs[step] for step in range(num_steps)]
    assert ours == pytest.approx(expected, rel=1e-12, abs=0)
    assert min(ours) > 0
