"""Weight sync into a real vLLM in buckets: bounded memory, partial loads, and missing weights are noticed."""

import weakref

import pytest
import torch
from engine_cases import CPU, ids
from transformers import AutoModelForCausalLM
from vllm_cases import CONFIGS, Oracle, vllm_engine, write

from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.vllm import buckets as vllm_buckets
from fastrl.engine.vllm.adapter import Vllm, unusable
from fastrl.engine.vllm.weights import WeightLedger
from fastrl.engine.weight_sums import weight_sums
from fastrl.types import SamplingParams

pytestmark = pytest.mark.skipif(unusable() is not None, reason=str(unusable()))
SAMPLING = SamplingParams(max_new_tokens=8)
LIMIT = 20_000
"""Bytes: a bucket of some tensors of these models, so that each model takes several."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.getbasetemp() / "vllm"
    for name in CONFIGS:
        write(base / name, name)
    return base


@pytest.fixture
def engine_of(folder, monkeypatch):
    """Engines by family, with buckets of LIMIT bytes; the weights that they began with are put back."""
    used = {}
    monkeypatch.setattr(vllm_buckets, "BUCKET_BYTES", LIMIT)

    def get(name):
        used[name] = vllm_engine(str(folder / name))
        return used[name]

    yield get
    for name, engine in used.items():
        engine.load_weights(changed(folder / name, 0, 0.0).items(), 0)


def changed(path, seed: int, size: float = 0.05) -> dict[str, torch.Tensor]:
    """The checkpoint's weights after an update."""
    g = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return {
        name: parameter.detach() + size * torch.randn(parameter.shape, generator=g)
        for name, parameter in model.named_parameters()
    }


def watched(monkeypatch) -> list[set[str]]:
    """Names of what vLLM is given, call by call."""
    seen: list[set[str]] = []
    reload = Vllm.reload

    def recorded(self, bucket):
        seen.append(set(bucket))
        reload(self, bucket)

    monkeypatch.setattr(Vllm, "reload", recorded)
    return seen


class Gathered:
    """Copies of weights, made one at a time as a sharded policy does, and the most bytes alive at once."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights, self.alive, self.most = weights, 0, 0

    def __iter__(self):
        for name, tensor in self.weights.items():
            whole = tensor.clone()
            self.alive += whole.nbytes
            self.most = max(self.most, self.alive)
            weakref.finalize(whole, self.freed, whole.nbytes)
            yield name, whole

    def freed(self, nbytes: int) -> None:
        self.alive -= nbytes


@pytest.mark.parametrize("name", list(CONFIGS))
def test_no_more_is_held_than_a_bucket_and_a_unit(folder, engine_of, monkeypatch, name):
    engine, seen = engine_of(name), watched(monkeypatch)
    weights = changed(folder / name, 1)
    gathered = Gathered(weights)
    engine.load_weights(gathered, 3)
    assert engine.weight_sums() == weight_sums(weights.items()) and engine.weights_version == 3
    assert len(seen) > 3 and set.union(*seen) == set(weights)
    assert sum(len(bucket) for bucket in seen) == len(weights)
    # the largest unit: the embedding of 260 rows, gate and up of 2 * 48, all of 32 float32
    assert 260 * 32 * 4 < gathered.most <= LIMIT + 260 * 32 * 4 < sum(w.nbytes for w in weights.values()) / 2
    assert gathered.alive == 0
    for bucket in seen:  # stacks are whole
        for parts in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            owners = [{n.split(part)[0] for n in bucket if part in n} for part in parts]
            assert all(owner == owners[0] for owner in owners)
    prompt = ids(torch.Generator().manual_seed(3), 40)
    (found,) = engine.generate([prompt], SAMPLING, seeds=[0])[0]
    oracle = Oracle(folder / name)
    oracle.model.load_state_dict(weights, strict=False)
    assert found.logprobs == pytest.approx(oracle.own_logprobs(prompt, found.token_ids), abs=1e-5)


def test_any_order_arrives(folder, engine_of):
    """All that is stacked lies far apart."""
    weights = changed(folder / "llama", 2)
    backwards = dict(sorted(weights.items(), key=lambda item: item[0][::-1]))
    engine = engine_of("llama")
    engine.load_weights(backwards.items(), 1)
    assert engine.weight_sums() == weight_sums(weights.items())


@pytest.mark.parametrize("after", [0, 3, 20])
def test_after_an_interrupted_load_nothing_but_all_weights_will_do(folder, engine_of, after):
    engine = engine_of("llama")
    weights = changed(folder / "llama", 0, 0.0)
    engine.load_weights(weights.items(), 5)
    before = engine.generate([[9, 8]], SAMPLING, seeds=[0])
    other = list(changed(folder / "llama", 4).items())

    def interrupted():
        yield from other[:after]
        raise OSError("the other rank is gone")

    with pytest.raises(OSError, match="the other rank is gone"):
        engine.load_weights(interrupted(), 6)
    assert engine.weights_version == 5
    if after:
        assert not engine.takes_partial_weights
        for call in (
            lambda: engine.generate([[9]], SAMPLING, seeds=[0]),
            lambda: engine.score([[9, 8]]),
            lambda: engine.load_weights(other[:1], 6, partial=True),
        ):
            with pytest.raises(RuntimeError, match=r"expected (all of them|a load of all weights)"):
                call()
        engine.load_weights(weights.items(), 7)
    assert engine.generate([[9, 8]], SAMPLING, seeds=[0]) == before


def test_a_name_too_few_or_wrong_is_found_late_and_named(folder, engine_of):
    engine, weights = engine_of("llama"), changed(folder / "llama", 4)
    name = "model.layers.1.mlp.up_proj.weight"
    for tensors, message in (
        ({n: w for n, w in weights.items() if n != name}, rf"{name}: expected 21 parameters, this one"),
        ({**weights, name: weights[name].T}, rf"{name}: expected shape \(48, 32\), got \(32, 48\)"),
        ({**weights, "surplus": torch.zeros(1)}, "surplus: expected a parameter of LlamaForCausalLM"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.load_weights(tensors.items(), 77)
        with pytest.raises(RuntimeError, match="weights: expected all of them, got some"):
            engine.generate([[9]], SAMPLING, seeds=[0])
    engine.load_weights(weights.items(), 78)


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_a_tied_name_that_comes_long_after_its_twin_is_compared(folder, engine_of, off):
    engine, weights = engine_of("qwen3"), changed(folder / "qwen3", 6)
    late = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    late["lm_head.weight"][200, 30] += off
    if not off:
        engine.load_weights(late.items(), 1)
        assert engine.weight_sums() == weight_sums(weights.items())
        return
    with pytest.raises(ValueError, match=r"lm_head\.weight: .* values of model\.embed_tokens\.weight"):
        engine.load_weights(late.items(), 1)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("llama", ("layers.1.self_attn.q_proj", "down_proj")),  # of a stack one, of others all
        ("qwen3", ("v_proj", "layers.0.mlp.up_proj", "layers.0.input_layernorm")),
        ("qwen3", ("embed_tokens",)),
    ],
)
def test_partial_weights_leave_the_others_unchanged(folder, engine_of, monkeypatch, name, parts):
    engine, path = engine_of(name), folder / name
    embedded = TorchEngine.from_pretrained(str(path), dtype=torch.float32, device=CPU)
    weights = changed(path, 7)
    monkeypatch.setattr(engine, "_given_all", False)
    with pytest.raises(RuntimeError, match=r"partial: expected a load of all weights before"):
        engine.load_weights(list(weights.items())[:2], 1, partial=True)
    engine.load_weights(weights.items(), 1)
    new = {n: w for n, w in changed(path, 8).items() if any(part in n for part in parts)}
    seen = watched(monkeypatch)
    engine.load_weights(new.items(), 2, partial=True)
    sums = engine.weight_sums()
    assert set(new) <= set.union(*seen) and len(set.union(*seen)) < len(weights) / 2
    engine._ledger.prove(weights | new)
    embedded.load_weights(weights.items(), 1)
    embedded.load_weights(new.items(), 2, partial=True)
    assert sums == embedded.weight_sums() == weight_sums((weights | new).items())
    engine.load_weights([], 3, partial=True)
    assert engine.weight_sums() == sums  # nothing changed
    (found,) = engine.generate([[9, 8, 7]], SAMPLING, seeds=[0])[0]
    (expected,) = embedded.score([[9, 8, 7, *found.token_ids]])
    assert found.logprobs == pytest.approx(expected.logprobs[3:], abs=1e-5)


def test_what_level_2_dropped_is_loaded_before_the_cache_comes_back(folder, engine_of, monkeypatch):
    """The CPU build can't sleep: what it would be told is seen."""
    engine, weights = engine_of("llama"), changed(folder / "llama", 9)
    engine.load_weights(weights.items(), 1)
    before = engine.generate([[9, 8]], SAMPLING, seeds=[0])
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(engine.vllm, "_on_cpu", False)
        patch.setattr(engine.vllm._llm, "sleep", lambda level: calls.append(("sleep", level)))
        patch.setattr(engine.vllm._llm, "wake_up", lambda tags: calls.append(("wake", tags)))
        patch.setattr(engine.vllm, "reload", lambda bucket: calls.append(("reload", None)))
        for _ in range(2):  # once more changes nothing
            engine.sleep(level=2)
        for _ in range(2):
            engine.wake()
        assert calls == [("sleep", 2), ("wake", ["weights"])] and not engine.takes_partial_weights
        with pytest.raises(RuntimeError, match=r"weights: .*, or sleep\(2\) has dropped them"):
            engine.generate([[9]], SAMPLING, seeds=[0])
        engine.load_weights(weights.items(), 2)
        assert set(calls[2:-1]) == {("reload", None)} and calls[-1] == ("wake", ["kv_cache"])
        engine.sleep()
        engine.wake()
        assert calls[-2:] == [("sleep", 1), ("wake", None)] and engine.takes_partial_weights
    assert engine.generate([[9, 8]], SAMPLING, seeds=[0]) == before


def test_what_shares_a_tensor_is_one_unit(monkeypatch):
    """A head with a bias of its own and a tied weight: one without the other would be made from nothing."""
    checkpoint = torch.nn.Module()
    checkpoint.embed, checkpoint.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5)
    checkpoint.norm = torch.nn.LayerNorm(3)
    checkpoint.head.weight = checkpoint.embed.weight
    ledger = WeightLedger(checkpoint, checkpoint, torch.float32)
    weights = {n: p.detach().clone() for n, p in checkpoint.named_parameters()}
    order = ("embed.weight", "norm.weight", "norm.bias", "head.bias")
    assert set(order) == set(weights)
    monkeypatch.setattr(vllm_buckets, "BUCKET_BYTES", 1)
    found = [
        set(bucket) for bucket in vllm_buckets.buckets(ledger, ((name, weights[name]) for name in order))
    ]
    assert found == [{"norm.weight", "norm.bias"}, {"embed.weight", "head.bias"}]
