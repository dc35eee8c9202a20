"""Options that do nothing where a run stands are refused or named."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch

from fastrl.check import check_ranks, warn_of_unshared_prefixes
from fastrl.config import EvalConfig, ModelConfig, RlConfig, SftConfig, TrainConfig
from fastrl.policy.model import choose_attention
from fastrl.train import run_stage

SHARDED = TrainConfig(shard=True)


def warnings_of(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(warning.message) for warning in caught]


def unshared(model: ModelConfig, device: str) -> list[str]:
    attention = choose_attention(model, torch.device(device))
    return warnings_of(lambda: warn_of_unshared_prefixes(model, attention))


def test_a_gpu_is_said_to_share_no_prefixes():
    (said,) = unshared(ModelConfig(), "cuda")
    assert said.startswith("[model] share_prefixes: does nothing with the attention fastrl_sdpa")
    assert unshared(ModelConfig(share_prefixes=False), "cuda") == []
    assert unshared(ModelConfig(attention="prefix"), "cuda") == []
    assert unshared(ModelConfig(), "cpu") == []


def test_sharding_on_one_rank_is_said_to_do_nothing():
    config = RlConfig(train=SHARDED)
    (said,) = warnings_of(lambda: check_ranks(config, 1))
    assert said.startswith("[train] shard: does nothing on one rank")
    assert warnings_of(lambda: check_ranks(config, 2)) == []
    assert warnings_of(lambda: check_ranks(RlConfig(), 1)) == []


@pytest.mark.parametrize("stage", [RlConfig, SftConfig])
def test_offloading_on_one_rank_is_refused(stage):
    config = stage(train=replace(SHARDED, offload=True))
    with pytest.raises(ValueError, match=r"\[train\] offload: expected false on one rank"):
        check_ranks(config, 1)
    check_ranks(config, 2)


def test_a_run_on_one_rank_refuses_to_offload_before_it_loads_a_model(monkeypatch):
    monkeypatch.setattr("fastrl.train.check_config", lambda config: None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="offload: expected false on one rank"):
        run_stage(RlConfig(train=replace(SHARDED, offload=True), eval=EvalConfig()))
