"""FastGRPOTrainer: TRL's losses, gradients and metrics on the same rollouts; additions and refusals."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed")
import trl
import trl_runs as world

from fastrl.integrations import trl_packing, trl_trainer
from fastrl.integrations.trl import FastGRPOTrainer

CISPO = {"loss_type": "cispo", "epsilon_high": 1.1}
SEQUENCE = {"loss_type": "grpo", "importance_sampling_level": "sequence", "use_bias_correction_kl": False}
CORRECTED = {"engine": True, "vllm_importance_sampling_clip_max": 1.15, "mask_truncated_completions": True}
CASES = {
    "dapo": {},
    "dapo-delta-padded": {"delta": 1.4, "pad_to_multiple_of": 16, "gradient_checkpointing": False},
    "grpo-beta": {"loss_type": "grpo", "beta": 0.05},
    "bnpo-entropy": {"loss_type": "bnpo", "entropy_coef": 0.05, "scale_rewards": "batch"},
    "dr_grpo-entropy-beta": {"loss_type": "dr_grpo", "entropy_coef": 0.05, "beta": 0.05},
    "cispo-beta-float-head": CISPO | {"beta": 0.05, "cast_lm_head_to_fp32": True},
    "gspo-beta": SEQUENCE | {"beta": 0.05},
    "dapo-token-correction": {"vllm_importance_sampling_mode": "token_truncate"} | CORRECTED,
    "grpo-sequence-correction": {"vllm_importance_sampling_mode": "sequence_mask"} | CORRECTED | SEQUENCE,
    "dapo-entropy-four-updates": {
        "steps_per_generation": 4,
        "per_device_train_batch_size": 4,
        "num_iterations": 1,
        "entropy_coef": 0.05,
        "scale_rewards": "none",
    },
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    families = ("qwen3", "llama")
    return {name: world.write_model(tmp_path_factory.mktemp(name), name) for name in families}


def equal_steps(ours, theirs, case: str) -> None:
    """The first has the same weights; the second, weights that Adam moved alike but where a gradient is 0."""
    assert len(ours.steps) == len(theirs.steps) == 2
    for mine, step, tolerance in zip(ours.steps, theirs.steps, (1e-5, 1e-3), strict=True):
        assert mine.losses == pytest.approx(step.losses, abs=tolerance)
        assert mine.gradients.keys() == step.gradients.keys()
        for name, expected in step.gradients.items():
            assert (mine.gradients[name] - expected).norm() <= 2 * tolerance * expected.norm(), (case, name)


@pytest.mark.parametrize("case", CASES)
def test_it_trains_as_trl_does(case, models, tmp_path):
    model = models["llama" if "beta" in case else "qwen3"]
    theirs = world.run(world.Plain, model, tmp_path, **CASES[case])
    ours = world.run(world.Fast, model, tmp_path, trainer={"keep_groups": False}, **CASES[case])
    equal_steps(ours, theirs, case)
    partly = not (CASES[case].get("beta") or CASES[case].get("entropy_coef"))
    for mine, step in zip(ours.steps, theirs.steps, strict=True):
        assert mine.prompts == step.prompts
        for found, wanted in zip(mine.metrics, step.metrics, strict=True):
            assert found.keys() == wanted.keys()
            for name in found.keys() - {"step_time"} - ({"entropy"} if partly else set()):
                assert found[name] == pytest.approx(wanted[name], rel=2e-3, abs=2e-3, nan_ok=True), name
    clipped = [step.metrics for step in theirs.steps][1]
    names = {"cispo_clip_ratio", "clip_ratio/region_mean"} & clipped[0].keys()
    assert "four-updates" in case or all(sum(each[name] for each in clipped) > 0 for name in names)


@pytest.fixture(scope="module")
def plain(models, tmp_path_factory):
    return world.run(world.Plain, models["qwen3"], tmp_path_factory.mktemp("plain"))


def test_rows_differ_in_length_and_a_group_is_idle(plain):
    """Else the comparison above would miss what padding and advantages of 0 do."""
    metrics = plain.steps[0].metrics[0]
    assert metrics["completions/min_length"] < metrics["completions/max_length"]
    assert metrics["frac_reward_zero_std"] > 0


def test_groups_stay_together_and_the_step_is_the_same(plain, models, tmp_path):
    ours = world.run(world.Fast, models["qwen3"], tmp_path)
    for mine, step in zip(ours.steps, plain.steps, strict=True):
        assert Counter(mine.rows) == Counter(step.rows)
        assert all(set(Counter(prompts).values()) == {4} for prompts in mine.prompts)
        assert any(set(Counter(prompts).values()) != {4} for prompts in step.prompts)
        assert sum(mine.losses) == pytest.approx(sum(step.losses), abs=1e-4)
    for name, expected in plain.steps[0].gradients.items():
        assert (ours.steps[0].gradients[name] - expected).norm() <= 1e-5 * expected.norm(), name


def test_what_the_model_reads(models, tmp_path, monkeypatch):
    """Prompts once a group, no padding, no idle rows."""
    read = []
    pack = trl_packing.pack

    def packing(sequences, *args):
        batch = pack(sequences, *args)
        read.append((sorted(tuple(each.token_ids[:-1]) for each in sequences), batch.num_tokens))
        return batch

    monkeypatch.setattr(trl_packing, "pack", packing)
    world.run(world.Fast, models["qwen3"], tmp_path, num_iterations=1, max_steps=1)
    assert len(read) == 2  # nothing but the losses
    for sequences, num_tokens in read:
        prefixes = {each[:end] for each in sequences for end in range(1, len(each) + 1)}
        assert num_tokens == len(prefixes) < sum(len(each) for each in sequences)
    assert sum(len(sequences) for sequences, _ in read) == 12  # of 16 rows; a group of 4 is idle


def test_a_batch_without_signal_moves_nothing(models, tmp_path):
    def equal(completion_ids, **kwargs):
        return [1.0] * len(completion_ids)

    trainer = world.Fast(
        str(models["qwen3"]), equal, world.arguments(tmp_path, mask_truncated_completions=True),
        world.rows(), processing_class=world.AutoTokenizer.from_pretrained(models["qwen3"]),
    )  # fmt: skip
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.steps[0].losses == [0.0, 0.0]
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, before[name]), name
        assert not trainer.steps[-1].gradients[name].any(), name


def test_an_adapter(models, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    options = {"peft_config": config}
    given = {"loss_type": "grpo", "beta": 0.05}
    theirs = world.run(world.Plain, models["qwen3"], tmp_path, trainer=options, **given)
    options = options | {"keep_groups": False}
    ours = world.run(world.Fast, models["qwen3"], tmp_path, trainer=options, **given)
    equal_steps(ours, theirs, "adapter")
    assert all("lora" in name for name in ours.steps[0].gradients)
    assert ours.steps[0].metrics[0]["kl"] > 0  # against the model without its adapter


def test_evaluation(models, tmp_path):
    losses = []
    for kind in (trl.GRPOTrainer, FastGRPOTrainer):
        trainer = kind(
            str(models["qwen3"]), world.by_tokens,
            world.arguments(tmp_path, per_device_eval_batch_size=4, beta=0.1), world.rows(),
            eval_dataset=world.rows(), processing_class=world.AutoTokenizer.from_pretrained(models["qwen3"]),
        )  # fmt: skip
        torch.manual_seed(3)
        with torch.no_grad():  # another policy than the reference
            trainer.model.get_output_embeddings().weight.mul_(0.9)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] != 0


REFUSED = {
    "loss_type": {"loss_type": "sapo"},
    "importance_sampling_level": {"loss_type": "bnpo", "importance_sampling_level": "sequence"},
    "use_bias_correction_kl": SEQUENCE | {"use_bias_correction_kl": True, "beta": 0.1},
    "epsilon_high": {"loss_type": "cispo", "epsilon_high": 0.9},
    "delta": {"delta": 1.28},
    "entropy_coef": {"loss_type": "grpo", "entropy_coef": 0.1},
    "use_adaptive_entropy": {"use_adaptive_entropy": True},
    "top_entropy_quantile": {"top_entropy_quantile": 0.5},
    "off_policy_mask_threshold": {"off_policy_mask_threshold": 0.5},
    "vllm_importance_sampling_clip_min": {"vllm_importance_sampling_clip_min": 0.5},
    "use_transformers_continuous_batching": {"use_transformers_continuous_batching": True},
    "torch_compile": {"torch_compile": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name_before_a_model_is_loaded(name, tmp_path):
    with pytest.raises(ValueError, match=rf"\[trl\] {name}: expected .* in FastGRPOTrainer, got"):
        FastGRPOTrainer("no/such/model", world.by_tokens, world.arguments(tmp_path, **REFUSED[name]))


@pytest.mark.parametrize(
    ("name", "max_refills", "options"),
    [
        ("max_refills", -1, {}),
        ("multi_objective_aggregation", 1, {"multi_objective_aggregation": "normalize_then_sum"}),
    ],
)
def test_refused_with_refills(name, max_refills, options, tmp_path):
    with pytest.raises(ValueError, match=rf"\[trl\] {name}: expected"):
        FastGRPOTrainer(
            "no/such/model", world.by_tokens, world.arguments(tmp_path, **options), max_refills=max_refills
        )


def test_another_release_is_refused(monkeypatch, tmp_path):
    def other():
        raise RuntimeError("[trl] version: expected 1.16.x, got 1.17.0")

    monkeypatch.setattr(trl_trainer, "check_version", other)
    with pytest.raises(RuntimeError, match=r"got 1\.17\.0"):
        FastGRPOTrainer("no/such/model", world.by_tokens, world.arguments(tmp_path))
