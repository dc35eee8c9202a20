"""New weights in a real vLLM: all arrive, and one that does not is noticed."""

import gc
import math
import os
import random

import pytest
import torch
from engine_cases import CPU, ids
from transformers import AutoConfig, AutoModelForCausalLM
from vllm_cases import CONFIGS, Oracle, vllm_engine, write

from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.vllm.adapter import Vllm, unusable
from fastrl.engine.weight_sums import weight_sums
from fastrl.types import SamplingParams

pytestmark = pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
SAMPLING = SamplingParams(max_new_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.getbasetemp() / "vllm"
    for name in CONFIGS:
        write(base / name, name)
    return base


@pytest.fixture
def engine_of(folder):
    """Engines by family; the weights that they began with are put back."""
    used = {}

    def get(name):
        used[name] = vllm_engine(str(folder / name))
        return used[name]

    yield get
    for name, engine in used.items():
        engine.load_weights(named(AutoModelForCausalLM.from_pretrained(folder / name)).items(), 0)


@pytest.fixture
def engine(engine_of):
    return engine_of("llama")


def changed(path, seed: int, dtype=torch.float32) -> torch.nn.Module:
    """The checkpoint after an update."""
    g = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g, dtype=dtype)
    return model


def named(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_after_updates_logprobs_are_the_new_models(folder, engine_of, name):
    path, own = folder / name, engine_of(name)
    embedded = TorchEngine.from_pretrained(str(path), dtype=torch.float32, device=CPU)
    oracle, (prompt,) = Oracle(path), [ids(torch.Generator().manual_seed(3), 40)]
    seen = [own.generate([prompt], SAMPLING, seeds=[0])[0][0]]
    for version in (1, 2, 3):
        model = changed(path, version)
        own.load_weights(named(model).items(), version)
        assert own.weights_version == version
        embedded.load_weights(named(model).items(), 0)
        assert own.weight_sums() == weight_sums(named(model).items()) == embedded.weight_sums()
        oracle.model.load_state_dict(model.state_dict())  # in float64
        (found,) = own.generate([prompt], SAMPLING, seeds=[0])[0]
        expected = oracle.own_logprobs(prompt, found.token_ids)
        assert found.logprobs == pytest.approx(expected, abs=1e-5)
        assert own.score([prompt + found.token_ids])[0].logprobs[40:] == pytest.approx(expected, abs=1e-5)
        seen.append(found)
    assert len({tuple(c.token_ids) for c in seen}) == 4


def test_an_engine_comes_and_goes_and_leaves_the_process_as_it_was(folder, engine):
    """In bfloat16; given other types, and a tied name twice."""
    from fastrl.engine.vllm.engine import VllmEngine

    expected = engine.generate([[9, 8]], SAMPLING, seeds=[0])
    before = process_state()
    own = VllmEngine(str(folder / "qwen3"), dtype=torch.bfloat16, device=CPU, max_batch_tokens=256)
    prompt = ids(torch.Generator().manual_seed(6), 70)
    for calls in (1, 2):  # nothing is kept from call to call
        own.generate([prompt], SAMPLING, seeds=[0])
        assert own.stats().prefill_tokens == 70 * calls
    model = changed(folder / "qwen3", 9)
    rounded = weight_sums((name, tensor.bfloat16()) for name, tensor in named(model).items())
    own.load_weights(named(model).items(), 1)
    assert own.weight_sums() == rounded
    own.load_weights(model.double().state_dict().items(), 2)
    assert own.weight_sums() == rounded  # lm_head is there as well
    own.generate([prompt], SAMPLING, seeds=[0])
    assert own.stats().prefill_tokens == 70 * 3
    assert process_state() == before
    del own
    gc.collect()
    assert engine.generate([[9, 8]], SAMPLING, seeds=[0]) == expected


def process_state() -> tuple:
    return (
        torch.set_num_threads,
        torch.get_rng_state().tolist(),
        random.getstate(),
        os.environ.get("LD_PRELOAD"),
        gc.get_freeze_count(),
    )


def test_what_is_no_weight_of_the_model_changes_nothing(engine, folder):
    before = engine.generate([[9, 8]], SAMPLING, seeds=[0])
    weights = named(changed(folder / "llama", 5))
    version, name = engine.weights_version, "model.layers.1.mlp.up_proj.weight"
    for tensors, message in (
        ({n: w for n, w in weights.items() if n != name}, rf"{name}: .*missing"),
        ({**weights, "surplus": torch.zeros(1)}, "surplus: expected a parameter of LlamaForCausalLM"),
        ({**weights, name: weights[name].T}, rf"{name}: expected shape \(48, 32\), got \(32, 48\)"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.load_weights(tensors.items(), 77)
    assert engine.weights_version == version
    assert engine.generate([[9, 8]], SAMPLING, seeds=[0]) == before


def test_a_name_comes_once(engine, folder):
    weights = list(named(changed(folder / "llama", 5)).items())
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.gate_proj\.weight: expected once, got it twice"):
        twice = next(item for item in weights if item[0].endswith("layers.0.mlp.gate_proj.weight"))
        engine.load_weights([*weights, twice], 77)


def test_tied_names_must_agree(folder, engine_of):
    own, model = engine_of("qwen3"), changed(folder / "qwen3", 6)
    other = {**named(model), "lm_head.weight": model.lm_head.weight.detach() + 1}
    with pytest.raises(ValueError, match=r"lm_head\.weight: .* values of model\.embed_tokens\.weight"):
        own.load_weights(other.items(), 1)


LOST = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] + [
    f"model.layers.1.{name}.weight"
    for name in ("self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")
]


def poison_new_memory(patch):
    """Fill what torch.empty and its like give with NaN."""

    def poisoned(make):
        def filled(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(math.nan) if made.is_floating_point() and not made.is_meta else made

        return filled

    for name in ("empty", "empty_like", "empty_strided"):
        patch.setattr(torch, name, poisoned(getattr(torch, name)))


def drop(weights, name):
    del weights[name]


def flip_the_last_bit(weights, name):
    flat = weights[name].view(torch.int32).view(-1)
    flat[len(flat) // 2] ^= 1


def swap(weights, name):
    other = name.replace("layers.1", "layers.0") if "layers.1" in name else "lm_head.weight"
    weights[name], weights[other] = weights[other], weights[name]


def shift(weights, name):
    weights[name] = weights[name].roll(1)


def shift_by_a_bit(weights, name):
    weights[name] = (weights[name].view(torch.int32) << 1).view(torch.float32)


FAULTS = [
    (fault, name)
    for fault in (drop, flip_the_last_bit, swap, shift, shift_by_a_bit)
    for name in LOST
    if fault is not swap
    or name not in ("model.norm.weight", "lm_head.weight")  # the one alone, the one swapped
]


@pytest.mark.parametrize(("fault", "name"), FAULTS)
def test_a_fault_on_the_way_is_found(engine, folder, monkeypatch, fault, name):
    """vLLM's new tensors begin as NaN: a lost weight finds no older copy of itself in freed memory."""
    engine.load_weights(named(changed(folder / "llama", 10)).items(), 4)
    model = changed(folder / "llama", 11)
    reload = Vllm.reload

    def faulty(self, bucket):
        weights = {n: w.clone() for n, w in bucket.items()}
        fault(weights, name)
        with monkeypatch.context() as poisoned:
            poison_new_memory(poisoned)
            reload(self, weights)

    version = engine.weights_version
    with (
        monkeypatch.context() as patch,
        pytest.raises(RuntimeError, match="expected vLLM to hold what was sent"),
    ):
        patch.setattr(Vllm, "reload", faulty)
        engine.load_weights(named(model).items(), 5)
    assert engine.weights_version == version
    engine.load_weights(named(model).items(), 6)  # and the right ones mend it


def test_nothing_reloaded_is_found(engine, folder, monkeypatch):
    monkeypatch.setattr(Vllm, "reload", lambda self, bucket: None)
    with pytest.raises(RuntimeError, match=r"model\.embed_tokens\.weight: .* values differ"):
        engine.load_weights(named(changed(folder / "llama", 12)).items(), 5)
    monkeypatch.undo()
    engine.load_weights(named(changed(folder / "llama", 12)).items(), 6)


def test_a_stale_pack_is_found(engine, folder):
    """The kernels' packed copy is what is read, not the parameter next to it."""
    model = changed(folder / "llama", 13)
    engine.load_weights(named(model).items(), 1)
    module = engine.vllm.model.get_submodule("model.layers.0.mlp.down_proj")
    kernel = module.cpu_linear
    module.cpu_linear = lambda x, weight, bias: kernel(x, weight, bias) + 1e-6
    with pytest.raises(RuntimeError, match=r"layers\.0\.mlp\.down_proj\.weight"):
        engine._ledger.prove(named(model))
    module.cpu_linear = kernel
    engine._ledger.prove(named(model))


def test_a_tensor_without_a_place_is_refused(engine, folder):
    from fastrl.engine.vllm.weights import WeightLedger

    config = AutoConfig.from_pretrained(folder / "llama")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model.model.layers[1].mlp.surprise = torch.nn.Linear(3, 3, bias=False)
    with pytest.raises(
        NotImplementedError, match=r"surprise\.weight: expected a place in vLLM's LlamaForCausalLM"
    ):
        WeightLedger(model, engine.vllm.model, torch.float32)
