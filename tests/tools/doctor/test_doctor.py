"""The doctor's verdicts on versions, ops and devices; it never crashes, with or without a GPU."""

import pytest
import torch

from fastrl.tools.doctor import machine as doctor
from fastrl.tools.doctor.machine import (
    REQUIRED,
    Supported,
    judge_version,
    machine_report,
    op_line,
    self_check,
)


@pytest.mark.parametrize(
    "version, status",
    [
        (None, "fail"),
        ("2.10.3", "fail"),
        ("2.11.0", "ok"),
        ("2.14.1+cu130", "ok"),
        ("2.15.0rc1", "warn"),
        ("2.15.0", "warn"),
        ("3.0", "warn"),
    ],
)
def test_versions_are_judged_by_the_supported_range(version, status):
    assert judge_version("torch", version, Supported("2.11", "2.15")).status == status


def test_any_version_may_do():
    assert judge_version("rich", "0.0.1", Supported()).status == "ok"
    assert judge_version("rich", None, Supported()).status == "fail"


def test_the_table_is_the_one_of_the_package():
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    needed = {r.name: r for text in requires("fastrl-llm") if not (r := Requirement(text)).marker}
    assert set(needed) == set(REQUIRED)
    for name, supported in REQUIRED.items():
        floors = [clause.version for clause in needed[name].specifier if clause.operator == ">="]
        assert floors in ([], [supported.first])


def test_this_machine_is_healthy():
    healthy, page = machine_report()
    assert healthy and "ready for training" in page
    for word in ("python", "torch", "cpu", "linear_grpo_loss", "self-check", "wandb"):
        assert word in page
    assert max(map(len, page.splitlines())) <= 120


def test_a_missing_package_makes_it_unhealthy(monkeypatch):
    monkeypatch.setattr(doctor, "package_version", lambda name: None if name == "sympy" else "2.13.0")
    healthy, page = machine_report()
    assert not healthy
    assert "  x sympy              missing" in page.splitlines()


def test_a_missing_core_makes_it_unhealthy(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    healthy, page = machine_report()
    assert not healthy and "fastrl._C is missing" in page


def test_ops_are_listed_in_the_order_of_auto():
    line = op_line("linear_logprob", torch.device("cpu"))
    assert (
        line.status == "ok" and line.finding.startswith("cpu: cpp, ") and line.finding.endswith("reference")
    )


def test_the_self_check_fails_beyond_its_limit(monkeypatch):
    assert self_check().status == "ok"
    monkeypatch.setattr(doctor, "SELF_CHECK_LIMIT", 0.0)
    assert self_check().status == "fail"
