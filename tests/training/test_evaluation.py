"""Sampling of evaluations: their own temperature, top_p and top_k; the rollouts' length and stop strings."""

import pytest

from fastrl.cli.eval import EvalOptions
from fastrl.config import DataConfig, EvalConfig, RlConfig, RolloutConfig
from fastrl.config.flags import parse_flags
from fastrl.training.evaluation import eval_sampling
from fastrl.types import SamplingParams


def test_evaluations_during_training():
    own = EvalConfig(temperature=0.7, top_p=0.8, top_k=20)
    rollout = RolloutConfig(max_new_tokens=9, temperature=1.0, top_p=0.5, top_k=3, stop=("\n",))
    expected = SamplingParams(max_new_tokens=9, temperature=0.7, top_p=0.8, top_k=20, stop=("\n",))
    assert eval_sampling(RlConfig(eval=own, rollout=rollout)) == expected


def test_fastrl_eval():
    flags = ["--data.path", "x.jsonl", "--temperature", "0.7", "--top_p", "0.8", "--top_k", "20"]
    options = parse_flags(EvalOptions, None, flags, prog="fastrl eval CHECKPOINT")
    assert options.sampling == SamplingParams(temperature=0.7, top_p=0.8, top_k=20)
    assert EvalOptions(data=DataConfig(path="x.jsonl")).sampling.top_k == 0


def test_a_negative_k_is_refused_before_a_model_is_loaded():
    with pytest.raises(ValueError, match=r"\[eval\] top_k: expected >= 0, got -1"):
        EvalConfig(top_k=-1)
    with pytest.raises(ValueError, match=r"\[eval\] top_k: expected >= 0, got -1"):
        EvalOptions(data=DataConfig(path="x.jsonl"), top_k=-1)
