"""Memory plans for several ranks, against two real ones and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml
from rank_processes import on_ranks

from fastrl.cli.main import main
from fastrl.config import (
    BackboneConfig,
    CptConfig,
    LoraConfig,
    LossConfig,
    ModelConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    TrainConfig,
    with_option,
)
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer, optimizer_tensors
from fastrl.policy.packing import pack
from fastrl.policy.shard import Sharding
from fastrl.tools.plan.footprint import Footprint
from fastrl.tools.plan.hints import SHARDING, smaller
from fastrl.tools.plan.planner import Device, Planner, held
from fastrl.tools.plan.report import stage_page
from fastrl.tools.plan.sharding import HOST, part
from fastrl.types import TrainSequence

CPU = torch.device("cpu")
RAM = Device("cpu", "RAM", 1 << 40)


def config_of(path, rank: int = 0, **train) -> RlConfig:
    model = ModelConfig(path=str(path), lora=LoraConfig(rank=rank))
    config = RlConfig(model=model, loss=LossConfig(kl_coef=0.1), train=TrainConfig(**train))
    return with_option(config, "rollout.max_new_tokens", 64)


def sizes(config: RlConfig, ranks: int, device: Device = RAM) -> dict[str, int | None]:
    return {item.name: item.num_bytes for item in Planner(config, device, ranks).items()}


def test_parts_by_hand():
    """Five rows on two ranks are three and two, one row is one and none."""
    assert part([(5, 3), (2,), (1, 4)], 2) == 9 + 1 + 4
    assert part([(5, 3), (2,), (1, 4)], 1) == 15 + 2 + 4


def local(tensor: torch.Tensor) -> int:
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).nbytes


def held_by(ranks, paths: dict[str, str], rank: int) -> dict[str, list[int]]:
    """Bytes of weights, gradients and moments after an update."""
    found = {}
    for name, path in paths.items():
        config = config_of(path, rank, shard=True)
        policy = Policy.load(config.model, CPU, seed=1, sharding=Sharding())
        optimizer = make_optimizer(policy, config.train)
        batch = pack([TrainSequence([5, 6, 7, 8], [False, True, True, True])], CPU)
        hidden = policy.hidden(batch)  # from here on the head is whole
        (hidden if rank else hidden @ policy.head.weight.T).sum().backward()
        apply_gradients(policy, optimizer, config.train, 0)
        found[name] = [
            sum(map(local, policy.model.parameters())),
            sum(local(p.grad) for p in policy.parameters()),
            sum(map(local, optimizer_tensors(policy, optimizer).values())),
        ]
    return found


@pytest.mark.parametrize("rank", [0, 3])
def test_two_ranks_hold_what_is_planned(checkpoints, tmp_path, rank):
    paths = {family: str(checkpoints[family]) for family in (("llama",) if rank else ("llama", "qwen3"))}
    found = on_ranks(2, held_by, tmp_path / "found", paths, rank)
    for name, path in paths.items():
        planned = sizes(config_of(path, rank, shard=True), 2)
        names = ("policy weights", "gradients", "optimizer states")
        assert [planned[item] for item in names] == [
            max(each) for each in zip(*(f[name] for f in found), strict=True)
        ]


def test_what_a_sharded_policy_gathers_by_hand(checkpoints):
    """llama: 260 x 32 twice and a norm of 32 outside of two layers. A layer: q and o 32 x 32, k and v
    16 x 32, three of 48 x 32, two norms."""
    layer, rest = 2 * 1024 + 2 * 512 + 3 * 1536 + 64, 2 * 8320 + 32
    plan = Footprint("model", ModelConfig(path=str(checkpoints["llama"])))
    assert (plan.layers, plan.num_parameters) == ([layer, layer], 2 * layer + rest)
    sharded = config_of(checkpoints["llama"], shard=True)
    items = sizes(sharded, 4)
    assert items["layers, whole"] == 4 * 3 * layer and items["embedding, head, whole"] == 4 * rest
    assert items["gradients, whole"] == 4 * (2 * layer + rest)
    assert items["a weight, whole"] == 2 * 4 * 8320
    assert items["sums of gradients"] == 12 * rest + rest
    assert items["reference weights"] == items["policy weights"] == 2 * layer + rest  # a quarter of 4 bytes
    assert "gradients, whole" not in sizes(with_option(sharded, "train.shard_gradients", True), 4)
    assert sizes(sharded, 1) == sizes(config_of(checkpoints["llama"]), 1)


def test_ranks_that_hold_all_sum_in_one_buffer(checkpoints):
    config = config_of(checkpoints["qwen3"])
    alone, many = sizes(config, 1), sizes(config, 2)
    assert many.pop("gradients, summed") == alone["gradients"]
    assert many == alone


def test_weights_in_host_memory_are_not_on_the_device(checkpoints):
    config = config_of(checkpoints["llama"], shard=True)
    away = with_option(config, "train.offload", True)
    gpu = Device.gpu(1)
    waiting = [item for item in Planner(away, gpu, 2).items() if item.when == HOST]
    kept = {"policy weights", "gradients", "optimizer states", "reference weights"}
    assert {item.name for item in waiting} == kept
    host = sum(item.num_bytes for item in waiting)
    assert Planner(config, gpu, 2).needed() - Planner(away, gpu, 2).needed() == host
    assert "in host memory" in stage_page(away, gpu, 2)[1]
    assert Planner(config, RAM, 2).needed() == Planner(away, RAM, 2).needed()  # there it is all one


def test_layers_in_bfloat16_are_not_cast_again(checkpoints):
    plan = Footprint("model", ModelConfig(path=str(checkpoints["qwen3"])))
    cast = plan.activations(256, torch.bfloat16, False)
    sharded = plan.activations(256, torch.bfloat16, False, sharded=True)
    assert sharded <= cast - 2 * sum(plan.layers)
    assert plan.activations(64, torch.float32, False, True) == plan.activations(64, torch.float32, False)


def test_the_hint_shards_step_by_step(checkpoints):
    gpu = Device.gpu(1)
    config = config_of(checkpoints["llama"], tokens_per_microbatch=64)
    assert not any(name in SHARDING for name, _ in smaller(Planner(config, gpu, 1)))
    for name in SHARDING:
        planner = Planner(config, gpu, 4)
        assert [each for each, _ in smaller(planner) if each in SHARDING] == [name]
        config = with_option(config, name, True)
    assert not any(each in SHARDING for each, _ in smaller(Planner(config, gpu, 4)))
    config = config_of(checkpoints["llama"])
    scored = replace(config, reward=replace(config.reward, functions=("entropy",), weights=(1.0,)))
    assert not any(each in SHARDING for each, _ in smaller(Planner(scored, gpu, 4)))  # refused with it


def test_ranks_share_a_machines_memory_and_not_its_gpus(checkpoints):
    config = config_of(checkpoints["llama"])
    assert Planner(config, RAM, 4).usable == Planner(config, RAM).usable // 4
    assert Planner(config, Device.gpu(1), 4).usable == Planner(config, Device.gpu(1)).usable
    page = stage_page(config, RAM, 4)[1]
    assert (
        "RAM that 4 ranks share" in page
        and "for one of 4 ranks; each holds whole engines and reward models" in page
    )
    assert held(Planner(config, RAM, 4).items(), "sum") > 0


def test_the_command_takes_ranks(checkpoints, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"stage": "rl", "model": {"path": str(checkpoints["llama"])}}))
    shape = ["--rollout.max_new_tokens", "64", "--train.tokens_per_microbatch", "64"]
    flags = ["--gpu_gib", "4", "--nproc", "8", "--train.shard", "true", *shape]
    assert main(["plan", str(path), *flags]) == 0
    assert "1 of 8 parts" in capsys.readouterr().out
    for count in ("0", "1.5"):
        assert main(["plan", str(path), "--nproc", count, *shape]) == 2
        assert "[plan] nproc: expected" in capsys.readouterr().err


def test_other_stages_that_learn(checkpoints):
    """Sharded as an RL policy is, with no engine to hand weights to; a reward model has no language head."""
    rl = config_of(checkpoints["llama"], shard=True)
    for stage in (SftConfig, CptConfig):
        sharded, of_rl = sizes(stage(model=rl.model, train=rl.train), 4), sizes(rl, 4)
        assert set(of_rl) - set(sharded) == {
            "a weight, whole", "reference weights", "policy engine weights", "policy engine KV cache",
        }  # fmt: skip
        assert {name: of_rl[name] for name in sharded if name != "logits"} == {
            name: size for name, size in sharded.items() if name != "logits"
        }
    judge = RewardModelConfig(model=BackboneConfig(path=rl.model.path), lora=LoraConfig(rank=3))
    alone, many = sizes(judge, 1), sizes(judge, 2)
    assert many.pop("gradients, summed") == alone["gradients"] > 0 and many == alone
    layer, rest = 2 * 1024 + 2 * 512 + 3 * 1536 + 64, 8320 + 32  # as above, without the head
    judge = RewardModelConfig(
        model=BackboneConfig(path=rl.model.path), lora=LoraConfig(rank=0), train=rl.train
    )
    assert sizes(judge, 1)["policy weights"] == 4 * (2 * layer + rest)
    sharded = sizes(judge, 4)
    assert sharded["policy weights"] == 2 * layer + rest and sharded["embedding, head, whole"] == 4 * rest
    small = Planner(SftConfig(model=rl.model), Device.gpu(1), 4)
    assert ("train.shard", True) in smaller(small)
