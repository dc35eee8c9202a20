"""Weights that oneDNN has packed: the same tokens, through every change of the weights."""

import pytest
import torch
from engine_cases import CPU, ragged_trees
from torch import nn

from fastrl.engine.tree import product
from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.tree.product import Product
from fastrl.engine.weight_sums import weight_sums
from fastrl.types import SamplingParams

FAMILIES = ("qwen3", "llama", "gemma2")  # normed heads, plain, and not fused


@pytest.fixture
def any_size(monkeypatch):
    """Pack weights of any size: tests have small ones."""
    monkeypatch.setattr(product, "_MIN_PACKED", 1)


def engine_of(checkpoints, family: str) -> TorchEngine:
    return TorchEngine.from_pretrained(str(checkpoints[family]), dtype=torch.float32, device=CPU)


def sampled(engine: TorchEngine):
    return engine.continue_prefixes(ragged_trees(3, 2), SamplingParams(temperature=0.8))


def same(found, wanted) -> None:
    for tree, other_tree in zip(found, wanted, strict=True):
        for branch, other_branch in zip(tree, other_tree, strict=True):
            for one, other in zip(branch, other_branch, strict=True):
                assert one.token_ids == other.token_ids
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def weights_of(engine: TorchEngine) -> dict[str, torch.Tensor]:
    with engine.decoder.plain_weights():
        return {name: p.detach().clone() for name, p in engine.decoder.model.named_parameters()}


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_by_hand(any_size, bias):
    layers = [nn.Linear(2, 1, bias=bias), nn.Linear(2, 2, bias=bias)]
    with torch.no_grad():
        for value, layer in zip((1.0, 3.0), layers, strict=True):
            layer.weight.fill_(value)
            if bias:
                layer.bias.fill_(0.5)
    fused = Product.of(layers)
    x, more = torch.tensor([[1.0, 2.0]]), 0.5 * bias
    for _ in range(2):
        assert fused(x).tolist() == [[3 + more, 9 + more, 9 + more]]
        assert fused.add_to(torch.ones(1, 3), x).tolist() == [[4 + more, 10 + more, 10 + more]]
        fused.pack()
        assert fused.packed is not None and layers[0].weight.untyped_storage().nbytes() == 4
    fused.unpack()
    assert layers[1].weight.tolist() == [[3.0, 3.0]] * 2 and fused.packed is None


def test_what_is_packed():
    """Large fp32 weights on a CPU."""
    for width, dtype, expected in (
        (512, torch.float32, True),
        (511, torch.float32, False),
        (512, torch.bfloat16, False),
    ):
        fused = Product.of([nn.Linear(512, width, bias=False, dtype=dtype)])
        fused.pack()
        assert (fused.packed is not None) is expected


@pytest.mark.parametrize("family", FAMILIES)
def test_same_tokens_and_scores(checkpoints, family, any_size, monkeypatch):
    packed = engine_of(checkpoints, family)
    assert all(each.packed is not None for each in packed.decoder.products())
    held = sum(p.untyped_storage().nbytes() for p in packed.decoder.model.model.layers.parameters())
    monkeypatch.setattr(product, "_MIN_PACKED", 1 << 60)
    plain = engine_of(checkpoints, family)
    whole = sum(p.numel() * 4 for p in plain.decoder.model.model.layers.parameters())
    assert held < 0.1 * whole or family == "gemma2"
    same(sampled(packed), sampled(plain))
    ids = [[9, 8, 7, 6, 5, 4]]
    assert packed.score(ids)[0].logprobs == pytest.approx(plain.score(ids)[0].logprobs, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_weights_are_packed(checkpoints, family, any_size):
    engine, other = engine_of(checkpoints, family), engine_of(checkpoints, family)
    generator = torch.Generator().manual_seed(1)
    moved = {
        name: w + 0.05 * torch.randn(w.shape, generator=generator) for name, w in weights_of(engine).items()
    }
    before = sampled(engine)
    engine.load_weights(moved.items(), 1)
    assert engine.weight_sums() == weight_sums(moved.items())
    found = sampled(engine)
    assert found != before
    halves = list(moved.items())
    other.load_weights(halves[::2], 1, partial=True)
    other.load_weights(halves[1::2], 2, partial=True)
    same(sampled(other), found)


@pytest.mark.parametrize("level", [1, 2])
def test_asleep_and_awake(checkpoints, level, any_size):
    engine = engine_of(checkpoints, "llama")
    weights, before = weights_of(engine), sampled(engine)
    engine.sleep(level)
    assert all(each.packed is None for each in engine.decoder.products())
    engine.wake()
    if level == 2:
        engine.load_weights(weights.items(), 1)
    assert all(each.packed is not None for each in engine.decoder.products())
    same(sampled(engine), before)


def test_weights_that_break_off_leave_an_engine_that_refuses(checkpoints, any_size):
    engine = engine_of(checkpoints, "llama")
    weights, before = weights_of(engine), sampled(engine)
    with pytest.raises(ValueError, match="this one is missing"):
        engine.load_weights(list(weights.items())[:3], 1)
    with pytest.raises(RuntimeError, match="weights"):
        sampled(engine)
    engine.load_weights(weights.items(), 2)
    same(sampled(engine), before)
