from __future__ import annotations

import pytest
import torch


@pytest.fixture
def poisoned(monkeypatch) -> None:
    """Uninitialised memory is NaN (or true): whoever reads before writing is found out."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def filled(*args, _original=original, **kwargs):
            out = _original(*args, **kwargs)
            return out.fill_(float("nan") if out.is_floating_point() else True)

        monkeypatch.setattr(torch, name, filled)


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
