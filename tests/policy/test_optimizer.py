"""AdamW's options against the formula, weight decay by names, and the optimiser in each stage."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer

from fastrl.config import ModelConfig, TrainConfig
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer, no_weight_decay
from fastrl.policy.schedule import learning_rate

CPU = torch.device("cpu")
TRAIN = TrainConfig(
    num_steps=6, learning_rate=0.05, lr_scheduler_type="linear", warmup_steps=2, adam_beta1=0.7,
    adam_beta2=0.9, adam_epsilon=1e-3, weight_decay=0.3, no_decay=("embed", r"^out\."), max_grad_norm=1e9,
)  # fmt: skip


class Plain:
    """The parts of a policy that the optimiser needs, in float64."""

    device = CPU

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = {
            "embed": torch.nn.Embedding(5, 3),
            "inner": torch.nn.Linear(3, 4),
            "out": torch.nn.Linear(4, 2),
        }
        self.model = torch.nn.ModuleDict(layers).double()

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.parameters())

    def reshard(self) -> None:
        pass


def test_the_formula_written_out():
    policy = Plain()
    optimizer = make_optimizer(policy, TRAIN)
    weights = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    means = {name: torch.zeros_like(w) for name, w in weights.items()}
    squares = {name: torch.zeros_like(w) for name, w in weights.items()}
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        lr, t = learning_rate(step, TRAIN), step + 1
        for name, parameter in policy.model.named_parameters():
            g = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = g.clone()
            means[name] = 0.7 * means[name] + 0.3 * g
            squares[name] = 0.9 * squares[name] + 0.1 * g**2
            decay = 0.3 if name == "inner.weight" else 0.0
            moved = (means[name] / (1 - 0.7**t)) / ((squares[name] / (1 - 0.9**t)).sqrt() + 1e-3)
            weights[name] = weights[name] - lr * (decay * weights[name] + moved)
        apply_gradients(policy, optimizer, TRAIN, step)
        for name, parameter in policy.model.named_parameters():
            torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-12, atol=1e-14)


def test_the_fused_kernel_gives_what_a_loop_over_tensors_gives():
    fused, loop = Plain(), Plain()
    one = make_optimizer(fused, TRAIN)
    assert one.defaults["fused"]
    groups = [
        {"params": [loop.model["inner"].weight], "weight_decay": 0.3},
        {"params": [p for n, p in loop.model.named_parameters() if n != "inner.weight"], "weight_decay": 0.0},
    ]
    other = torch.optim.AdamW(groups, lr=0.05, betas=(0.7, 0.9), eps=1e-3, fused=False, foreach=False)
    for step in range(6):
        for policy, optimizer in ((fused, one), (loop, other)):
            torch.manual_seed(step)
            for parameter in policy.parameters():
                parameter.grad = torch.randn_like(parameter)
            apply_gradients(policy, optimizer, TRAIN, step)
    for a, b in zip(fused.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
def test_without_patterns_the_same_weights_decay_as_in_transformers(checkpoints, family):
    model = AutoModelForCausalLM.from_pretrained(checkpoints[family])
    dimensions = {name: parameter.ndim for name, parameter in model.named_parameters()}
    plain = no_weight_decay(dimensions, ())
    # theirs lists a tied head under both of its names
    theirs = dimensions.keys() & set(Trainer.get_decay_parameter_names(None, model))
    assert dimensions.keys() - plain == theirs
    assert plain


def test_patterns_find_names(checkpoints):
    policy = Policy.load(ModelConfig(path=str(checkpoints["llama"])), CPU)
    train = TrainConfig(weight_decay=0.1, no_decay=("embed_tokens|lm_head", "q_proj"))
    optimizer = make_optimizer(policy, train)
    names = {parameter: name for name, parameter in policy.model.named_parameters()}
    decayed, plain = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    assert (optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[1]["weight_decay"]) == (0.1, 0)
    assert decayed | plain == set(names.values()) and not decayed & plain
    spared = ("embed_tokens", "lm_head", "q_proj", "norm")
    assert plain == {name for name in names.values() if any(part in name for part in spared)}
    with pytest.raises(ValueError, match=r"\[train\] no_decay: expected patterns of trainable .*'wte'"):
        make_optimizer(policy, TrainConfig(no_decay=("q_proj", "wte")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("adam_beta2", math.nan),
        ("adam_epsilon", 0.0),
        ("min_lr_rate", 1.1),
        ("min_lr_rate", -0.1),
        ("no_decay", ("(",)),
        ("no_decay", ("",)),
    ],
)
def test_what_can_not_be_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"\[train\] {name}: expected "):
        TrainConfig(**{name: value})


def test_a_frozen_weight_is_no_ones():
    policy = Plain()
    policy.model["out"].requires_grad_(False)
    optimizer = make_optimizer(policy, TrainConfig(weight_decay=0.1))
    sizes = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sizes == [5 * 3 + 3 * 4, 4]
    with pytest.raises(ValueError, match="no_decay"):
        make_optimizer(policy, SimpleNamespace(weight_decay=0.1, no_decay=("out",)))
