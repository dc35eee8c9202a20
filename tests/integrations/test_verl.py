"""Our losses under verl's names equal verl's for every aggregation; two updates in verl's own loss."""

from __future__ import annotations

import logging

import pytest
import torch

pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed")
from verl.trainer.ppo import core_algos as core

from fastrl.integrations import verl as ours

LENGTHS = [3, 6, 1, 5, 0]
WIDTH = 7
THEIRS = {"fastrl_ppo": "vanilla", "fastrl_gspo": "gspo", "fastrl_cispo": "cispo"}
BATCHES = {
    "alone": {"dp_size": 1},
    "of_two": {"dp_size": 2, "batch_num_tokens": 41, "global_batch_size": 9, "loss_scale_factor": 13},
}


def actor_config(batch: str = "alone", **options):
    from verl.workers.config import ActorConfig

    config = ActorConfig(
        strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1,
        **{"clip_ratio_low": 0.05, "clip_ratio_high": 0.08, "clip_ratio_c": 1.4, **options},
    )  # fmt: skip
    config.global_batch_info.update(BATCHES[batch])
    return config


def inputs(seed: int = 0):
    torch.manual_seed(seed)
    shape = (len(LENGTHS), WIDTH)
    current = -torch.rand(shape) * 3
    old = current + 0.4 * torch.randn(shape)
    mask = torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]
    mask[1, 2] = False  # a tool's token
    return old, current, torch.randn(shape), mask


def function(name: str):
    if name == "fastrl_reinforce":
        return core.compute_policy_loss_reinforce
    return core.get_policy_loss_fn(THEIRS[name])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("mode", ours.AGGREGATIONS)
@pytest.mark.parametrize("name", ours.LOSSES)
def test_loss_gradient_and_metrics(name, mode, batch, weighted):
    old, current, advantages, mask = inputs()
    weights = torch.rand_like(current) * 2 if weighted else None
    results = []
    for loss in (function(name), core.get_policy_loss_fn(name)):
        leaf = current.clone().requires_grad_()
        value, metrics = loss(
            old, leaf, advantages, mask.float(), loss_agg_mode=mode, config=actor_config(batch),
            rollout_is_weights=weights,
        )  # fmt: skip
        value.backward()
        results.append((value.detach(), leaf.grad, metrics))
    (expected, gradient, reported), (found, our_gradient, our_metrics) = results
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (our_gradient - gradient).norm() <= 1e-5 * gradient.norm()
    assert not our_gradient[~mask].any()
    common = our_metrics.keys() & reported.keys()
    assert "actor/ppo_kl" in common or name == "fastrl_reinforce"
    for each in common:
        assert our_metrics[each] == pytest.approx(reported[each], abs=1e-5), each
    if name == "fastrl_ppo":
        assert our_metrics["actor/pg_clipfrac"] > 0 < our_metrics["actor/pg_clipfrac_lower"]


def test_a_batch_without_tokens_is_a_zero_with_gradients():
    old, current, advantages, mask = inputs()
    leaf = current.requires_grad_()
    loss, metrics = core.get_policy_loss_fn("fastrl_ppo")(
        old, leaf, advantages, torch.zeros_like(mask), config=actor_config()
    )
    loss.backward()
    assert loss == 0 and not leaf.grad.any() and metrics["actor/ppo_kl"] == 0


def test_what_is_refused():
    old, current, advantages, mask = inputs()
    loss = core.get_policy_loss_fn("fastrl_ppo")
    with pytest.raises(ValueError, match=r"\[verl\] loss_agg_mode: expected token-mean or .*got 'mean'"):
        loss(old, current, advantages, mask, loss_agg_mode="mean", config=actor_config())
    config = actor_config()
    config.global_batch_info.update(dp_size=2)
    for mode, name in (("token-mean", "batch_num_tokens"), ("seq-mean-token-sum", "global_batch_size")):
        with pytest.raises(ValueError, match=rf"\[verl\] {name}: expected a number, as dp_size is 2"):
            loss(old, current, advantages, mask, loss_agg_mode=mode, config=config)


def test_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(ours, "version", lambda name: "0.10.0")
    with pytest.raises(RuntimeError, match=r"expected 0\.9\.x, got 0\.10\.0"):
        ours.register()


def test_the_plugin_says_why_it_failed(monkeypatch, caplog):
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "fastrl.integrations.verl_rewards", None)
    monkeypatch.delattr("fastrl.integrations.verl_rewards", raising=False)
    monkeypatch.delitem(sys.modules, "fastrl.integrations.verl_plugin", raising=False)
    with caplog.at_level(logging.WARNING), pytest.raises(ImportError):
        importlib.import_module("fastrl.integrations.verl_plugin")
    assert "[verl] plugin: expected fastrl's losses and rewards, got" in caplog.text


def test_two_updates_in_verls_own_loss(tmp_path):
    """verl's ppo_loss, with its nested batches, on a tiny policy: as with its vanilla loss."""
    tensordict = pytest.importorskip("tensordict")
    from transformers import LlamaConfig, LlamaForCausalLM
    from verl.workers.config.actor import PolicyLossConfig
    from verl.workers.utils.losses import ppo_loss

    lengths, prompt = [4, 2, 5], 3
    torch.manual_seed(0)
    rows = [torch.randint(0, 19, (prompt + length,)) for length in lengths]
    advantages = [torch.full((length,), sign) for length, sign in zip(lengths, (1.0, -0.5, 2.0), strict=True)]

    def nested(tensors):
        return torch.nested.as_nested_tensor(list(tensors), layout=torch.jagged)

    def run(loss_mode: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        mode = PolicyLossConfig(loss_mode=loss_mode)
        config = actor_config(clip_ratio_low=0.01, clip_ratio_high=0.01, policy_loss=mode)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=19, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=2,
            )
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

        def logprobs():  # verl's: at each token the log-prob of the next one, the last one's is not read
            for row in rows:
                scores = model(row[None]).logits[0].log_softmax(-1)
                yield scores.gather(1, row.roll(-1)[:, None])[:, 0]

        with torch.no_grad():
            old = [each[prompt - 1 : -1] for each in logprobs()]
        for _ in range(2):
            data = tensordict.TensorDict(
                {
                    "prompts": nested(row[:prompt] for row in rows),
                    "responses": nested(row[prompt:] for row in rows),
                    "response_mask": nested(torch.ones(length) for length in lengths),
                    "old_log_probs": nested(old),
                    "advantages": nested(advantages),
                },
                batch_size=[len(rows)],
            )
            sizes = {"dp_size": 1, "batch_num_tokens": sum(lengths), "global_batch_size": len(lengths)}
            for name, value in sizes.items():
                data.set_non_tensor(name, value)
            loss, metrics = ppo_loss(config, {"log_probs": nested(logprobs())}, data)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert "actor/pg_clipfrac" in metrics
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    expected, found = run("vanilla"), run("fastrl_ppo")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)
