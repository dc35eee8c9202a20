"""The length ramp: values by hand, TRL's function, and its options."""

import pytest

from fastrl.config import RewardConfig, RlConfig, RolloutConfig
from fastrl.rewards.overlong import SoftOverlongPunishment

NAME = "soft_overlong_punishment"


def ramp(longest: int, cache: int, lengths: list[int]) -> list[float]:
    ids = [[7] * length for length in lengths]
    return SoftOverlongPunishment(longest, cache)([""] * len(ids), [""] * len(ids), ids, level=[1] * len(ids))


def test_by_hand():
    # L = 100, C = 20: free up to 80, then (80 - |y|) / 20
    assert ramp(100, 20, [0, 1, 79, 80, 81, 85, 90, 100, 101, 500]) == [
        0, 0, 0, 0, -0.05, -0.25, -0.5, -1, -1, -1,
    ]  # fmt: skip
    # DAPO's own: 16,384 tokens are free, 20,480 are the end
    assert ramp(20480, 4096, [16384, 18432, 20480]) == [0, -0.5, -1]


@pytest.mark.parametrize(("longest", "cache"), [(100, 20), (7, 7), (20480, 4096), (9, 1)])
def test_equals_trl(longest, cache):
    rewards = pytest.importorskip("trl.rewards", reason="trl is not installed")
    lengths = [*range(min(longest, 200) + 3), longest - cache, longest - cache + 1, longest, longest + 1]
    theirs = rewards.get_soft_overlong_punishment(longest, cache)([[7] * length for length in lengths])
    assert ramp(longest, cache, lengths) == theirs


@pytest.mark.parametrize("cache", [0, -1, 11])
def test_a_ramp_that_does_not_fit_is_refused(cache):
    with pytest.raises(ValueError, match=rf"\[reward\] soft_punish_cache: expected .*, got {cache}"):
        SoftOverlongPunishment(10, cache)


def config(cache: int | None, longest: int = 512, functions: tuple[str, ...] = ("answer", NAME)) -> RlConfig:
    reward = RewardConfig(functions=functions, weights=(1.0,) * len(functions), soft_punish_cache=cache)
    return RlConfig(reward=reward, rollout=RolloutConfig(max_new_tokens=longest))


def test_its_option():
    assert config(None, 20480).overlong_tokens == 4096
    assert config(None, 3).overlong_tokens == 1
    assert config(100).overlong_tokens == 100
    with pytest.raises(ValueError, match=r"soft_punish_cache: expected at most rollout.max_new_tokens 64"):
        config(65, 64)
    with pytest.raises(ValueError, match=r"\[reward\] soft_punish_cache: expected > 0, got 0"):
        config(0)
    with pytest.raises(ValueError, match=rf"soft_punish_cache: expected null, since .* has no {NAME}, got 9"):
        config(9, functions=("answer",))
