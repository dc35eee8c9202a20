import copy
import weakref

import pytest
import torch
from checkpoints import byte_tokenizer, write_checkpoint
from engine_cases import CPU, ids
from transformers import AutoModelForCausalLM

from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.weight_sums import weight_sums
from fastrl.types import SamplingParams


@pytest.mark.parametrize("name", ["qwen3", "llama", "gpt2", "gemma2", "mistral_window"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_against_float64(family, monkeypatch, name, temperature):
    f = family(name)
    monkeypatch.setattr("fastrl.engine.tree.scoring._BATCH_TOKENS", 40)  # several batches
    monkeypatch.setattr("fastrl.engine.tree.prefill._PASS_TOKENS", 16)  # and several passes of each
    g = torch.Generator().manual_seed(1)
    sequences = [ids(g, n) for n in (7, 1, 30, 0, 12, 2, 30, 41)]
    found = f.engine.score(sequences, temperature)
    for sequence, scores in zip(sequences, found, strict=True):
        assert len(scores.logprobs) == len(scores.entropy) == len(scores.self_certainty) == len(sequence)
        if len(sequence) < 2:
            assert scores.logprobs == scores.entropy == scores.self_certainty == [0.0] * len(sequence)
            continue
        logp = (f.logits(sequence) / temperature).log_softmax(-1)[:-1]
        own = logp.gather(-1, torch.tensor(sequence[1:])[:, None])[:, 0]
        uniform = torch.full_like(logp, 1 / logp.shape[-1])
        for values, expected in (
            (scores.logprobs, own),
            (scores.entropy, -(logp.exp() * logp).sum(-1)),
            (scores.self_certainty, (uniform * (uniform.log() - logp)).sum(-1)),
        ):
            assert values[0] == 0.0
            torch.testing.assert_close(torch.tensor(values[1:]).double(), expected, rtol=1e-5, atol=2e-5)


def test_scores_are_the_samplers_logprobs(family):
    engine = family("qwen3").engine
    prompt = [10, 20, 30]
    (completion,) = engine.generate([prompt], SamplingParams(max_new_tokens=20, temperature=0.8), seeds=[4])[
        0
    ]
    scores = engine.score([prompt + completion.token_ids], 0.8)[0]
    assert scores.logprobs[3:] == pytest.approx(completion.logprobs, abs=1e-4)


@pytest.mark.parametrize("name", ["qwen3", "llama"])  # a tied and an untied head
def test_loaded_weights_generate_like_a_fresh_engine(checkpoints, tmp_path, name):
    engine = TorchEngine.from_pretrained(str(checkpoints[name]), dtype=torch.float32, device=CPU)
    other = write_checkpoint(tmp_path / "other", name, seed=1)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(other)
    fresh = TorchEngine.from_pretrained(str(other), dtype=torch.float32, device=CPU)
    sampling = SamplingParams(max_new_tokens=12)
    before = engine.generate([[9, 8]], sampling, seeds=[0], n=4)
    model.double()
    engine.load_weights(((n, p.detach()) for n, p in model.named_parameters()), version=3)
    sums = engine.weight_sums()
    after = engine.generate([[9, 8]], sampling, seeds=[0], n=4)
    assert engine.weights_version == 3
    assert after == fresh.generate([[9, 8]], sampling, seeds=[0], n=4)
    assert after != before
    assert sums == weight_sums((n, p.detach().float()) for n, p in model.named_parameters())
    engine.load_weights(model.state_dict().items(), version=4)  # tied names twice
    assert engine.weight_sums() == sums


def test_every_weight_is_accounted_for(checkpoints):
    engine = TorchEngine.from_pretrained(str(checkpoints["qwen3"]), dtype=torch.float32, device=CPU)
    weights = {n: p.detach().clone() for n, p in engine.decoder.model.named_parameters()}
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight: .*missing"):
        engine.load_weights({n: w for n, w in weights.items() if n != name}.items(), 1)
    with pytest.raises(ValueError, match="surplus: expected a parameter of Qwen3ForCausalLM"):
        engine.load_weights({**weights, "surplus": torch.zeros(1)}.items(), 1)
    with pytest.raises(ValueError, match=r"up_proj\.weight: expected shape \(48, 32\), got \(32, 48\)"):
        engine.load_weights({**weights, name: weights[name].T}.items(), 1)
    tied = weights["model.embed_tokens.weight"] + 1
    with pytest.raises(
        ValueError, match=r"lm_head\.weight: expected the values of model\.embed_tokens\.weight"
    ):
        engine.load_weights({**weights, "lm_head.weight": tied}.items(), 1)
    assert engine.weights_version == 0


@pytest.mark.parametrize("broken", [0, 4])
def test_after_an_interrupted_load_nothing_but_all_weights_will_do(checkpoints, broken):
    engine = TorchEngine.from_pretrained(str(checkpoints["qwen3"]), dtype=torch.float32, device=CPU)
    weights = {n: w.detach().clone() for n, w in engine.decoder.model.named_parameters()}
    before = engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0])

    def interrupted():
        yield from list(weights.items())[:broken]
        raise OSError("the other rank is gone")

    with pytest.raises(OSError, match="the other rank is gone"):
        engine.load_weights(interrupted(), 1)
    assert not engine.takes_partial_weights
    for call in (
        lambda: engine.generate([[9]], SamplingParams(), seeds=[0]),
        lambda: engine.score([[9, 8]]),
        lambda: engine.load_weights(list(weights.items())[:1], 1, partial=True),
    ):
        with pytest.raises(RuntimeError, match="weights: expected all of them, got some"):
            call()
    engine.load_weights(weights.items(), 2)
    assert engine.takes_partial_weights
    assert engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0]) == before
    with pytest.raises(ValueError, match=r"norm\.weight: expected once, got it twice"):
        engine.load_weights([*weights.items(), ("model.norm.weight", weights["model.norm.weight"])], 3)


def test_sums_say_which_weight_differs():
    a, b = torch.arange(6.0), torch.ones(2, dtype=torch.bfloat16)
    sums = weight_sums([("a", a), ("b", b)])
    assert sums == weight_sums([("b", b), ("a", a)])
    changed = copy.deepcopy(a)
    changed[3] = torch.nextafter(changed[3], torch.tensor(9.0))
    swapped = a[[1, 0, 2, 3, 4, 5]]
    for other in (changed, swapped, a.flip(0), a.half().float() + 1e-3):
        found = weight_sums([("a", other), ("b", b)])
        assert found["a"] != sums["a"] and found["b"] == sums["b"]
    assert weight_sums([("a", -a[:1])]) == weight_sums([("a", a[:1])])  # the sign of a zero
    assert weight_sums([]) == {}


def test_sleep_and_wake(checkpoints):
    engine = TorchEngine.from_pretrained(str(checkpoints["llama"]), dtype=torch.float32, device=CPU)
    before = engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0])
    engine.sleep()
    for call in (
        lambda: engine.generate([[9]], SamplingParams(), seeds=[0]),
        lambda: engine.score([[9, 8]]),
        lambda: engine.load_weights([], 1),
    ):
        with pytest.raises(RuntimeError, match="expected awake, got asleep"):
            call()
    engine.wake()
    assert engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0]) == before
    with pytest.raises(ValueError, match="level: expected 1 or 2, got 3"):
        engine.sleep(3)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])  # with fused projections, and without
def test_a_sleeping_engine_keeps_only_the_weights_of_its_level(checkpoints, name):
    engine = TorchEngine.from_pretrained(str(checkpoints[name]), dtype=torch.float32, device=CPU)
    weights = {n: w.detach().clone() for n, w in engine.decoder.model.named_parameters()}
    (before,) = engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0])[0]
    parameters = list(engine.decoder.model.parameters())
    fused = [weakref.ref(layer.qkv.weight) for layer in getattr(engine.decoder.fused, "layers", ())]
    assert len(fused) == (2 if name == "qwen3" else 0)
    engine.sleep()
    engine.sleep(2)
    assert sum(p.untyped_storage().nbytes() for p in parameters) == 4 * len(parameters)
    assert not any(tensor() is not None for tensor in fused)
    engine.wake()
    engine.wake()  # once more changes nothing
    with pytest.raises(RuntimeError, match=r"weights: .*, or sleep\(2\) has dropped them"):
        engine.generate([[9]], SamplingParams(), seeds=[0])
    engine.load_weights(weights.items(), 1)
    (after,) = engine.generate([[9, 8]], SamplingParams(max_new_tokens=5), seeds=[0])[0]
    assert after.token_ids == before.token_ids  # weights that lie elsewhere may round otherwise
    assert after.logprobs == pytest.approx(before.logprobs, abs=1e-5)


def test_bfloat16_engine(checkpoints):
    path = str(checkpoints["qwen3"])
    engine = TorchEngine.from_pretrained(path, dtype=torch.bfloat16, device=CPU)
    (found,) = engine.generate([[9, 8, 7]], SamplingParams(max_new_tokens=8, temperature=0), seeds=[0])
    scores = engine.score([[9, 8, 7, *found[0].token_ids]])[0]
    assert scores.logprobs[3:] == pytest.approx(found[0].logprobs, abs=0.1)  # logits below 8: 8 bits


def test_scores_refuse_what_does_not_fit(family):
    engine = family("qwen3").engine
    assert engine.score([]) == []
    with pytest.raises(ValueError, match="temperature: expected > 0"):
        engine.score([[5, 6]], 0.0)
    with pytest.raises(ValueError, match="expected <= max_model_len 512, got 513"):
        engine.score([[5] * 513])


def test_tokenizer_is_the_checkpoints_own(family):
    assert family("qwen3").engine.tokenizer.get_vocab() == byte_tokenizer().get_vocab()
