"""Self-certainty and entropy against their definitions, from plain logits in float64."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

import fastrl.policy.model as policy_model
from fastrl.config import ModelConfig
from fastrl.data import render_prompt
from fastrl.methods.weak.certainty import CertaintyReward, CertaintyScorer
from fastrl.policy.model import Policy

CPU = torch.device("cpu")
QUESTIONS = ("3+4?", "3+4?", "a longer question: 2+5?", "3+4?")
PROMPTS = [[{"role": "user", "content": question}] for question in QUESTIONS]
COMPLETIONS = [[37, 9, 120, 1], [37, 9, 121, 5, 60, 61, 62, 1], [200], [44] * 13]


@pytest.fixture(params=["qwen3", "gemma2"])
def family(request, checkpoints):
    return checkpoints[request.param]


def rewards(policy, kind="self_certainty", budget=16384, step=0, completions=COMPLETIONS, groups=None):
    reward = CertaintyReward(kind, CertaintyScorer(policy, budget))
    state = SimpleNamespace(global_step=step)
    return reward(PROMPTS, [""] * 4, completions, trainer_state=state, group_ids=groups)


@torch.no_grad()
def defined(path, tokenizer) -> tuple[list[float], list[float]]:
    """(self-certainty, entropy) of each completion, by the definitions, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager")
    certainty, entropy = [], []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        before = render_prompt(tokenizer, prompt)
        logits = model(torch.tensor([before + completion])).logits[0, len(before) - 1 : -1].double()
        p = logits.softmax(-1)
        uniform = torch.full_like(p, 1 / p.shape[-1])
        assert len(p) == len(completion)
        certainty.append((uniform * (uniform / p).log()).sum(-1).mean().item())
        entropy.append(-(p * p.log()).sum(-1).mean().item())
    return certainty, entropy


def test_both_equal_their_definitions(family):
    policy = Policy.load(ModelConfig(path=str(family)), CPU)
    certainty, entropy = defined(family, policy.tokenizer)
    assert min(certainty) > 0.01 and max(certainty) > 1.05 * min(certainty)
    assert rewards(policy) == pytest.approx(certainty, rel=2e-5)
    assert rewards(policy, "entropy") == pytest.approx([-value for value in entropy], rel=2e-5)
    assert all(-math.log(260) < value < 0 for value in rewards(policy, "entropy"))


def test_it_does_not_matter_how_the_batch_is_cut(checkpoints):
    path = str(checkpoints["qwen3"])
    policy = Policy.load(ModelConfig(path=path), CPU)
    whole = rewards(policy)
    for budget in (1, 20, 40):  # a row each, and ragged batches
        assert rewards(policy, budget=budget, groups=[0, 0, 1, 2]) == pytest.approx(whole, rel=1e-5)
    plain = Policy.load(ModelConfig(path=path, attention="sdpa"), CPU)
    assert rewards(plain, budget=40) == pytest.approx(whole, rel=1e-5)


def test_a_completion_without_tokens_has_none(checkpoints):
    policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"])), CPU)
    with_gap = rewards(policy, completions=[COMPLETIONS[0], [], *COMPLETIONS[2:]])
    assert with_gap[1] is None
    assert with_gap[2:] == pytest.approx(rewards(policy)[2:], rel=1e-5)


def test_one_pass_for_both_and_another_for_other_weights(checkpoints, monkeypatch):
    policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"])), CPU)
    calls, score = [], policy_model.linear_logprob
    monkeypatch.setattr(policy_model, "linear_logprob", lambda *a, **k: calls.append(1) or score(*a, **k))
    scorer = CertaintyScorer(policy)
    both = [CertaintyReward(kind, scorer) for kind in ("self_certainty", "entropy")]

    def ask(reward, step, completions=COMPLETIONS):
        return reward(PROMPTS, [""] * 4, completions, trainer_state=SimpleNamespace(global_step=step))

    before = [ask(reward, 0) for reward in both]
    assert len(calls) == 1
    with torch.no_grad():
        policy.head.weight.mul_(1.5)
    after = [ask(reward, 1) for reward in both]
    assert len(calls) == 2
    assert all(new != old for new, old in zip(after, before, strict=True))
    assert ask(both[0], 1, completions=COMPLETIONS[::-1]) != after[0]
    assert len(calls) == 3


def test_logprobs_are_the_scores_own(checkpoints):
    policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"])), CPU)
    sequence = CertaintyScorer(policy)._sequence(PROMPTS[0], COMPLETIONS[0])
    batch = policy.pack([sequence])
    out = policy.score(batch, temperature=0.7, top_k=3)
    assert torch.equal(out.logprobs, policy.logprobs(batch, temperature=0.7, top_k=3))
    assert not out.logprobs.requires_grad and not out.self_certainty.requires_grad


def test_refusals(checkpoints):
    with pytest.raises(ValueError, match=r"\[certainty\] tokens_per_microbatch: expected >= 1, got 0"):
        CertaintyScorer(None, 0)
