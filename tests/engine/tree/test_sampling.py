"""The random numbers of requests."""

import torch

from fastrl.engine.sampling import request_keys, uniforms

MASK = (1 << 64) - 1


def splitmix64(state: int, steps: int) -> int:
    """Output `steps` + 1 of the generator that starts at `state`, in Python integers."""
    z = (state + (steps + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_uniforms_are_splitmix64():
    assert splitmix64(0, 0) == 0xE220A8397B1DCDAF  # the generator's published first output for seed 0
    keys = [0, 5, -3, 2**63 - 1, -(2**63)]
    found = uniforms(torch.tensor(keys), 2, 3)
    expected = [[(splitmix64(key & MASK, s) >> 11) / 2**53 for s in (2, 3, 4)] for key in keys]
    assert found.tolist() == expected
    assert ((found >= 0) & (found < 1)).all()


def test_request_keys_differ_by_seed_and_sample():
    seeds = [s for s in range(100) for _ in range(20)]
    samples = list(range(20)) * 100
    assert len(set(request_keys(seeds, samples))) == 2000
    assert request_keys([2**70 + 3], [0]) == request_keys([(2**70 + 3) % 2**64], [0])
