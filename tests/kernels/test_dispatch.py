from __future__ import annotations

import logging

import pytest
import torch

from fastrl.kernels._dispatch import Implementation, pick


def implementation(name: str, reason: str | None) -> Implementation:
    return Implementation(name, lambda: name, lambda device, dtype: reason)


CPU = torch.device("cpu")


def chosen(backend: str, *implementations: Implementation) -> str:
    return pick("op", backend, implementations, CPU, torch.float32).run()


def test_auto_takes_the_first_usable_one():
    assert (
        chosen("auto", implementation("a", "is tired"), implementation("b", None), implementation("c", None))
        == "b"
    )


def test_auto_says_once_what_it_took(caplog):
    with caplog.at_level(logging.INFO, logger="fastrl.ops"):
        for _ in range(3):
            pick("announced", "auto", [implementation("only", None)], CPU, torch.float32)
    assert [record.message for record in caplog.records] == ["announced runs as only on cpu"]


def test_a_named_one_never_falls_back():
    both = (implementation("a", "is tired"), implementation("b", None))
    assert chosen("b", *both) == "b"
    with pytest.raises(
        RuntimeError, match=r"\[op\] backend: expected one of \['b'\], got 'a', which is tired"
    ):
        chosen("a", *both)
    with pytest.raises(ValueError, match=r"\[op\] backend: expected auto or one of \['a', 'b'\], got 'c'"):
        chosen("c", *both)


def test_nothing_usable():
    with pytest.raises(
        RuntimeError, match=r"\[op\] backend: expected one for cpu and torch.float32, got none"
    ):
        chosen("auto", implementation("a", "is tired"))
