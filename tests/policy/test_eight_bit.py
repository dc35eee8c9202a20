"""AdamW with 8-bit moments next to float32 ones: updates, bytes, checkpoints and refusals."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fastrl.check import check_config
from fastrl.config import ModelConfig, RunConfig, SftConfig, TrainConfig
from fastrl.policy import eight_bit
from fastrl.policy.checkpoint import Saver, load_optimizer
from fastrl.policy.eight_bit import state_bytes
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer, optimizer_tensors
from fastrl.tiny.world.models import Shape, initialise

CPU = torch.device("cpu")
EXACT = TrainConfig(
    num_steps=20, learning_rate=1e-2, lr_scheduler_type="cosine", weight_decay=0.1, adam_beta2=0.95
)
EIGHT = replace(EXACT, optim="adamw_torch_8bit")


@pytest.fixture
def eager(monkeypatch):
    """torchao's function without torch.compile, which takes seconds a shape."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights of 128 x 64 and more are whole blocks; the norms are small."""
    shape = Shape(family="llama", hidden=64, layers=1, heads=4, kv_heads=4, head_dim=16, intermediate=128)
    return initialise(shape, tmp_path_factory.mktemp("start"), seed=0)


def load(folder) -> Policy:
    return Policy.load(ModelConfig(path=str(folder)), CPU)


def advance(policy: Policy, optimizer, config: TrainConfig, first: int, last: int) -> None:
    """Take steps whose gradients pull the weights to where they began, with noise."""
    for step in range(first, last):
        torch.manual_seed(step)
        for parameter in policy.parameters():
            parameter.grad = parameter.detach() + 0.1 * torch.randn_like(parameter)
        apply_gradients(policy, optimizer, config, step)


def after(folder, config: TrainConfig, steps: int) -> dict[str, torch.Tensor]:
    policy = load(folder)
    advance(policy, make_optimizer(policy, config), config, 0, steps)
    return {name: p.detach().clone() for name, p in policy.model.named_parameters()}


@pytest.mark.slow
def test_the_first_step_is_exact_and_later_ones_stay_close(start, eager):
    """Moments are rounded after the update, and only those of tensors with whole blocks."""
    begun = {name: p.detach().clone() for name, p in load(start).model.named_parameters()}
    for name, weight in after(start, EIGHT, 1).items():
        torch.testing.assert_close(weight, after(start, EXACT, 1)[name], rtol=1e-5, atol=1e-7)
    rounded, exact = after(start, EIGHT, 10), after(start, EXACT, 10)
    for name, weight in rounded.items():
        moved = (exact[name] - begun[name]).norm()
        if weight.numel() < 4096 or weight.numel() % 256:
            assert (weight - exact[name]).norm() <= 1e-5 * moved, name
        else:
            assert 1e-5 * moved < (weight - exact[name]).norm() < 0.05 * moved, name


def test_its_bytes(start, eager):
    policy = load(start)
    optimizer = make_optimizer(policy, EIGHT)
    advance(policy, optimizer, EIGHT, 0, 1)
    held = sum(tensor.nbytes for tensor in optimizer_tensors(policy, optimizer).values())
    shapes = [tuple(parameter.shape) for parameter in policy.parameters()]
    assert held == state_bytes(shapes)
    # by hand: 2 moments of 8,192 codes and 32 scales; 2 of 100 numbers; a step each
    assert state_bytes([(128, 64), (100,)]) == 2 * (8192 + 4 * 32) + 2 * 4 * 100 + 2 * 4
    assert state_bytes([(4097,), (3840,)]) == 8 * (4097 + 3840) + 2 * 4


@pytest.mark.slow
def test_going_on_from_a_checkpoint_is_bit_for_bit(start, tmp_path, eager):
    whole = after(start, EIGHT, 6)
    policy = load(start)
    optimizer = make_optimizer(policy, EIGHT)
    advance(policy, optimizer, EIGHT, 0, 3)
    with Saver(tmp_path, keep_last=1) as saver:
        path = saver.save(policy, optimizer, {"step": 3})
    again = load(path)
    resumed = make_optimizer(again, EIGHT)
    load_optimizer(path, again, resumed)
    saved, read = optimizer_tensors(policy, optimizer), optimizer_tensors(again, resumed)
    assert saved.keys() == read.keys() and any(name.endswith(".codes") for name in saved)
    assert all(torch.equal(saved[name], read[name]) for name in saved)
    advance(again, resumed, EIGHT, 3, 6)
    assert all(torch.equal(p, whole[name]) for name, p in again.model.named_parameters())


@pytest.mark.long
def test_the_compiled_function_is_the_same(start):
    pytest.importorskip("torchao", reason="torchao is not installed")
    compiled = after(start, EIGHT, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function, **options: function)
        eager = after(start, EIGHT, 2)
    for name, weight in compiled.items():
        torch.testing.assert_close(weight, eager[name], rtol=1e-4, atol=1e-6)


def test_it_is_refused_without_torchao_and_with_shards(start, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"\[train\] optim: expected adamw_torch_fused with train.shard"):
        replace(EIGHT, shard=True)
    monkeypatch.setattr(eight_bit, "find_spec", lambda name: None)
    config = SftConfig(run=RunConfig(dir=str(tmp_path)), model=ModelConfig(path=str(start)), train=EIGHT)
    with pytest.raises(ValueError, match=r"\[train\] optim: expected adamw_torch_fused if torchao is not"):
        check_config(config)
    policy = SimpleNamespace(model=torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"\[train\] optim: expected adamw_torch_fused if torchao is not"):
        make_optimizer(policy, EIGHT)
