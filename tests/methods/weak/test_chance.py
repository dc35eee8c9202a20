"""The random reward: a fair coin that depends only on the seed and the rollout's number."""

from itertools import pairwise
from types import SimpleNamespace

from fastrl.methods.weak.chance import RandomReward


def call(seed, ids, step=0, size=None):
    texts = ["x"] * (len(ids) if size is None else size)
    return RandomReward(seed)(texts, texts, rollout_ids=ids, trainer_state=SimpleNamespace(global_step=step))


def test_a_fair_coin():
    tosses = call(0, range(4000))
    assert set(tosses) == {0.0, 1.0}
    assert 1873 < sum(tosses) < 2127  # four standard deviations
    pairs = [first == second for first, second in pairwise(tosses)]
    assert 1873 < sum(pairs) < 2127


def test_only_the_rollout_decides():
    tosses = call(3, range(40))
    assert [call(3, [rollout], step=7)[0] for rollout in range(40)] == tosses
    assert call(3, [*range(39, -1, -1)]) == tosses[::-1]
    assert call(4, range(40)) != tosses


def test_without_rollout_ids_steps_differ():
    assert call(3, None, step=0, size=40) == call(3, None, step=0, size=40)
    assert call(3, None, step=0, size=40) != call(3, None, step=1, size=40)
