"""Packed forward and backward against each sequence on its own in transformers' attention."""

import pytest
import torch
from checkpoints import byte_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from fastrl.config import ModelConfig
from fastrl.policy.head import lm_head_of
from fastrl.policy.model import Policy
from fastrl.policy.packing import pack
from fastrl.types import TrainSequence

CPU = torch.device("cpu")
LENGTHS = (5, 1, 17, 8)


def sequences(vocab: int) -> list[TrainSequence]:
    torch.manual_seed(1)
    tokens = [torch.randint(0, vocab, (3 + length,)).tolist() for length in LENGTHS]
    return [TrainSequence(ids, [False] * 3 + [True] * (len(ids) - 3)) for ids in tokens]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2", "mistral_window"])
def test_packed_equals_each_sequence_on_its_own(checkpoints, family):
    path = checkpoints[family]
    policy = Policy.load(ModelConfig(path=str(path)), CPU)
    alone = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    batch = pack(todo := sequences(policy.head.weight.shape[0]), CPU)
    hidden = policy.hidden(batch)
    expected = torch.cat(
        [alone.base_model(torch.tensor([s.token_ids[:-1]])).last_hidden_state[0, 2:] for s in todo]
    )
    torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=2e-5)

    weights = torch.randn_like(hidden)
    (hidden * weights).sum().backward()
    (expected * weights).sum().backward()
    grads = dict(alone.named_parameters())
    for name, parameter in policy.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(
                parameter.grad,
                grads[name].grad,
                atol=2e-4,
                rtol=2e-4,
                msg=lambda m, name=name: f"{name}: {m}",
            )


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_logprobs_equal_the_models_own_logits(checkpoints, family):
    policy = Policy.load(ModelConfig(path=str(checkpoints[family])), CPU)
    todo = sequences(policy.head.weight.shape[0])
    got = policy.logprobs(pack(todo, CPU), temperature=0.7)
    alone = AutoModelForCausalLM.from_pretrained(
        checkpoints[family], dtype=torch.float64, attn_implementation="eager"
    )
    expected = []
    with torch.no_grad():
        for s in todo:
            logits = alone(torch.tensor([s.token_ids])).logits[0, 2:-1] / 0.7
            expected.append(logits.log_softmax(-1).gather(1, torch.tensor(s.token_ids[3:])[:, None])[:, 0])
    torch.testing.assert_close(got.double(), torch.cat(expected), atol=2e-5, rtol=2e-5)


def test_gradient_checkpointing_changes_nothing(checkpoints):
    grads = []
    for on in (False, True):
        policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"]), gradient_checkpointing=on), CPU)
        policy.hidden(pack(sequences(policy.head.weight.shape[0]), CPU)).square().sum().backward()
        grads.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_gradient_checkpointing_keeps_less(checkpoints):
    """What the backward pass holds on to, in elements: of every layer its input alone."""
    kept = []
    for on in (False, True):
        policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"]), gradient_checkpointing=on), CPU)
        seen: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, seen=seen: seen.append(t.numel()) or t, lambda t: t
        ):
            policy.hidden(pack(sequences(policy.head.weight.shape[0]), CPU))
        kept.append(sum(seen))
    assert kept[1] < 0.5 * kept[0]


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(checkpoints):
    policy = Policy.load(ModelConfig(path=str(checkpoints["qwen3"]), dtype="bfloat16"), CPU)
    hidden = policy.hidden(pack(sequences(policy.head.weight.shape[0]), CPU))
    assert hidden.dtype == torch.bfloat16 and policy.head.weight.dtype == torch.float32


@pytest.mark.parametrize("attention", ["flash", "flex"])
def test_attention_that_needs_a_gpu_is_refused_here(checkpoints, attention):
    with pytest.raises(ValueError, match=rf"\[model\] attention: {attention}"):
        Policy.load(ModelConfig(path=str(checkpoints["qwen3"]), attention=attention), CPU)


def test_saved_policy_loads_in_transformers(checkpoints, tmp_path):
    policy = Policy.load(ModelConfig(path=str(checkpoints["llama"])), CPU)
    policy.save(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(policy.model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_head_reads_what_the_configuration_does_to_logits(checkpoints):
    assert lm_head_of(AutoModelForCausalLM.from_pretrained(checkpoints["gemma2"])).softcap == 30.0


def test_dropout_is_off(checkpoints, tmp_path):
    config = AutoConfig.from_pretrained(checkpoints["gpt2"], resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    policy = Policy.load(ModelConfig(path=str(tmp_path)), CPU)
    batch = pack(sequences(260), CPU)
    assert torch.equal(policy.hidden(batch), policy.hidden(batch))
