"""Adapters of a policy: peft's own forward, merged weights, the frozen head, what engines receive."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from fastrl.config import AdapterConfig, ModelConfig, RlConfig, TrainConfig
from fastrl.engine.tree.engine import TorchEngine
from fastrl.engine.tree.weights import copy_weights
from fastrl.kernels._products import HeadProducts
from fastrl.kernels.config import LossConfig
from fastrl.ops import linear_grpo_loss
from fastrl.policy.lora import FOLDER, adapter_weights, linear_layers, merged_weights
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import make_optimizer, optimizer_tensors
from fastrl.stages.sft import accumulate
from fastrl.tools.plan.planner import Device, Planner
from fastrl.types import TrainSequence

CPU = torch.device("cpu")
# ragged, with masks of every kind; the first token is never predicted
SEQUENCES = [
    TrainSequence([5, 9, 12, 40, 41, 3, 1], [False] * 4 + [True] * 3),
    TrainSequence([5, 9, 77], [True] * 3),
    TrainSequence([200, 6], [False, True]),
]


def adapted(path, seed=3, **lora):
    """A policy whose adapters do something: B is drawn too, where peft begins with zeros."""
    config = ModelConfig(path=str(path), lora=AdapterConfig(**{"rank": 3, "alpha": 5.0, **lora}))
    policy = Policy.load(config, CPU, seed=seed)
    draw_adapters(policy, seed)
    return policy, config


def draw_adapters(policy, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2", "gpt2"])
def test_loss_and_gradient_are_those_of_pefts_own_forward_in_float64(checkpoints, family):
    policy, config = adapted(checkpoints[family])
    loss, _ = accumulate(policy, SEQUENCES, 8)

    base = AutoModelForCausalLM.from_pretrained(config.path, dtype=torch.float64, attn_implementation="eager")
    model = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=5, target_modules="all-linear"))
    ours = {f"base_model.model.{name}": weight for name, weight in adapter_weights(policy.model).items()}
    theirs = {name: p for name, p in model.named_parameters() if "lora_" in name}
    assert ours.keys() == theirs.keys() and len(ours) == 2 * len(linear_names(policy))
    for name, parameter in theirs.items():
        parameter.data = ours[name].double()
    terms = []
    for sequence in SEQUENCES:
        ids = torch.tensor([sequence.token_ids])
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        terms.append(logprobs[torch.tensor(sequence.loss_mask[1:])])
    mean = -torch.cat(terms).mean()
    mean.backward()
    assert float(loss) == pytest.approx(mean.item(), rel=1e-5)
    for name, parameter in policy.model.named_parameters():
        if "lora_" not in name:
            assert parameter.grad is None and not parameter.requires_grad, name
            continue
        wanted = theirs[f"base_model.model.{name}"].grad
        assert float((parameter.grad - wanted).abs().max() / wanted.abs().max()) < 2e-5, name


def linear_names(policy):
    """Names of the modules that adapters go into, counted from the model's shape."""
    return [name for name, _ in policy.model.named_modules() if name.endswith(".base_layer")]


@pytest.mark.parametrize(
    "family, linear",
    [
        ("llama", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
        ("gpt2", ["c_attn", "c_fc", "c_proj"]),
    ],
)
def test_all_linear_layers_but_the_head_have_adapters(checkpoints, family, linear):
    assert linear_layers(AutoModelForCausalLM.from_pretrained(checkpoints[family])) == linear
    policy, _ = adapted(checkpoints[family])
    assert {name.split(".")[-2] for name in linear_names(policy)} == set(linear)
    named, _ = adapted(checkpoints[family], target_modules=(linear[0], linear[-1]))
    assert {name.split(".")[-2] for name in linear_names(named)} == {linear[0], linear[-1]}


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_a_saved_folder_is_merged_for_transformers_and_holds_adapters_for_peft(checkpoints, tmp_path, family):
    policy, config = adapted(checkpoints[family])
    ids = [5, 9, 12, 40, 41, 3]
    before = {name: w.clone() for name, w in policy.model.state_dict().items()}
    wanted = logits_of(policy.model.eval(), ids)
    base = AutoModelForCausalLM.from_pretrained(config.path)
    assert float((logits_of(base, ids) - wanted).abs().max()) > 0.05
    policy.save(tmp_path)
    assert all(torch.equal(w, before[name]) for name, w in policy.model.state_dict().items())

    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert float((logits_of(merged, ids) - wanted).abs().max()) < 1e-5
    by_peft = peft.PeftModel.from_pretrained(base, tmp_path / FOLDER).eval()
    assert torch.equal(logits_of(by_peft, ids), wanted)

    again = Policy.load(config, CPU, checkpoint=tmp_path, seed=99)
    assert all(torch.equal(w, before[name]) for name, w in again.model.state_dict().items())
    other = ModelConfig(path=config.path, lora=AdapterConfig(rank=2))
    with pytest.raises(ValueError, match=r"\[lora\] rank: expected the saved adapters' layers and rank"):
        Policy.load(other, CPU, checkpoint=tmp_path)


def test_without_adapters_it_is_the_base_to_the_bit_and_trains_on(checkpoints):
    policy, config = adapted(checkpoints["qwen3"])
    batch = policy.pack(SEQUENCES)
    plain = Policy.load(ModelConfig(path=config.path), CPU)
    wanted = plain.logprobs(plain.pack(SEQUENCES), temperature=0.7)
    with_adapters = policy.logprobs(batch, temperature=0.7)
    start = policy.before_training()
    assert start.model is policy.model
    assert torch.equal(start.logprobs(batch, temperature=0.7), wanted)
    assert float((with_adapters - wanted).abs().max()) > 1e-2
    # and afterwards the policy is what it was
    assert torch.equal(policy.logprobs(batch, temperature=0.7), with_adapters)
    assert all("lora_" in name for name, p in policy.model.named_parameters() if p.requires_grad)
    assert len(policy.parameters()) == len(adapter_weights(policy.model))
    with pytest.raises(ValueError, match="expected a policy with adapters"):
        plain.before_training()


def one_pass(policy):
    batch = policy.pack(SEQUENCES)
    out = linear_grpo_loss(
        policy.hidden(batch), policy.head.weight, batch.ids, cu_seqlens=batch.row_cu_seqlens,
        advantages=torch.tensor([1.0, -0.5, 2.0]), loss_mask=torch.ones_like(batch.ids, dtype=torch.bool),
        config=LossConfig(), denominator=6.0, **policy.head.options(),
    )  # fmt: skip
    out.loss.backward()


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_frozen_head_costs_no_product_and_gets_no_gradient(checkpoints, monkeypatch, family):
    made = []
    product = HeadProducts.grad_weight

    def counted(*args, **kwargs):
        made.append(1)
        product(*args, **kwargs)

    monkeypatch.setattr(HeadProducts, "grad_weight", counted)
    policy, config = adapted(checkpoints[family])
    one_pass(policy)
    assert made == [] and policy.head.weight.grad is None
    assert all(p.grad is not None for p in policy.parameters())
    whole = Policy.load(ModelConfig(path=config.path), CPU)
    one_pass(whole)
    assert made and whole.head.weight.grad is not None


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_an_engine_gets_merged_weights_and_then_only_those_that_change(checkpoints, family):
    last = linear_layers(AutoModelForCausalLM.from_pretrained(checkpoints[family]))[-1]
    policy, config = adapted(checkpoints[family], target_modules=(last,))
    engine = TorchEngine.from_pretrained(config.path, dtype=torch.float32, device=CPU)
    engine.load_weights(policy.named_weights(), version=1)
    draw_adapters(policy, seed=11)
    sent = dict(policy.named_weights(changed_only=True))
    assert {name.split(".")[-2] for name in sent} == {last} and all(n.endswith(".weight") for n in sent)
    engine.load_weights(sent.items(), version=2, partial=True)
    partly = engine.weight_sums()
    assert engine.weights_version == 2
    merged = merged_weights(policy.model)
    held = engine.decoder.model.state_dict()
    assert held.keys() == merged.keys()
    assert all(torch.equal(held[name], weight) for name, weight in merged.items())
    engine.load_weights(policy.named_weights(), version=3)
    assert engine.weight_sums() == partly
    with pytest.raises(ValueError, match="this one is missing"):
        engine.load_weights(sent.items(), version=4)


def test_a_partial_load_still_knows_every_name_and_shape():
    model = torch.nn.Linear(2, 3)
    bias = model.bias.detach().clone()
    copy_weights(model, [("weight", torch.ones(3, 2))], partial=True)
    assert torch.equal(model.weight, torch.ones(3, 2)) and torch.equal(model.bias, bias)
    with pytest.raises(ValueError, match="weights: expected a parameter of Linear"):
        copy_weights(model, [("weights", torch.ones(3, 2))], partial=True)
    with pytest.raises(ValueError, match=r"weight: expected shape \(3, 2\), got \(2, 3\)"):
        copy_weights(model, [("weight", torch.ones(2, 3))], partial=True)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_the_plan_counts_what_is_trained(checkpoints, family):
    policy, config = adapted(checkpoints[family])
    stage = RlConfig(model=config, loss=LossConfig(kl_coef=0.1))
    items = {item.name: item.num_bytes for item in Planner(stage, Device.gpu(1)).items()}
    optimizer = make_optimizer(policy, stage.train)
    accumulate(policy, SEQUENCES, 100)
    optimizer.step()
    states = optimizer_tensors(policy, optimizer).values()
    assert items["policy weights"] == sum(p.nbytes for p in policy.model.parameters())
    assert items["gradients"] == sum(p.grad.nbytes for p in policy.parameters())
    assert items["optimizer states"] == sum(state.nbytes for state in states)
    assert "reference weights" not in items
    whole = RlConfig(model=ModelConfig(path=config.path), loss=LossConfig(kl_coef=0.1))
    plain = {item.name: item.num_bytes for item in Planner(whole, Device.gpu(1)).items()}
    head = 4 * policy.head.weight.numel()
    assert plain["head"] - items["head"] == head and "reference weights" in plain


def test_the_optimizer_holds_only_adapters(checkpoints):
    policy, _ = adapted(checkpoints["llama"])
    optimizer = make_optimizer(policy, TrainConfig(learning_rate=1e-2))
    accumulate(policy, SEQUENCES, 100)
    frozen = {n: p.detach().clone() for n, p in policy.model.named_parameters() if "lora_" not in n}
    moved = {n: w.clone() for n, w in adapter_weights(policy.model).items()}
    optimizer.step()
    assert len(optimizer.state) == len(moved)
    assert all(torch.equal(dict(policy.model.named_parameters())[n], w) for n, w in frozen.items())
    assert all(not torch.equal(adapter_weights(policy.model)[n], w) for n, w in moved.items())
