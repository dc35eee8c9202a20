"""The plan against the memory of real objects on tiny checkpoints; hints against the plan itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, Qwen3MoeConfig

from fastrl.cli.main import main
from fastrl.config import (
    BackboneConfig,
    CheckpointConfig,
    EngineConfig,
    EvalConfig,
    FaithfulnessConfig,
    LossConfig,
    ModelConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    TrainConfig,
    TransferConfig,
    WriterConfig,
    with_option,
)
from fastrl.engine.tree.engine import TorchEngine
from fastrl.kernels._layout import kept_layout
from fastrl.policy.model import Policy
from fastrl.policy.optimizer import apply_gradients, make_optimizer, optimizer_tensors
from fastrl.policy.packing import pack
from fastrl.tools.plan import planner as plan
from fastrl.tools.plan.footprint import Footprint, LiveBytes
from fastrl.tools.plan.hints import CHECKPOINTING, MICROBATCH, hint, size, smaller
from fastrl.tools.plan.planner import USABLE, Device, Planner
from fastrl.tools.plan.report import stage_page
from fastrl.types import SamplingParams, TrainSequence

CPU = torch.device("cpu")
FAMILIES = ("qwen3", "llama", "gemma2", "mistral_window", "gpt2")
GIB = 2**30
SLEEP, BATCH_TOKENS = "engine.sleep", "engine.max_batch_tokens"


OUTLINES: dict[object, Footprint] = {}


@pytest.fixture(autouse=True)
def outline_once(monkeypatch) -> None:
    """A model is outlined once for all tests, whatever its checkpointing."""

    def shared(section: str, model: CheckpointConfig) -> Footprint:
        key = (section, model.path)
        if key not in OUTLINES:
            OUTLINES[key] = Footprint(section, model)
        return OUTLINES[key]

    monkeypatch.setattr(plan, "Footprint", shared)


def footprint(path: Path | str) -> Footprint:
    return Footprint("model", CheckpointConfig(path=str(path)))


def nbytes(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def batch(policy: Policy, lengths: tuple[int, ...]):
    vocab = policy.head.weight.shape[0]
    sequences = [torch.randint(0, vocab, (length + 1,)).tolist() for length in lengths]
    return pack([TrainSequence(ids, [True] * len(ids)) for ids in sequences], CPU)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_holds_what_is_planned(checkpoints, family):
    planned = footprint(checkpoints[family])
    policy = Policy.load(ModelConfig(path=str(checkpoints[family])), CPU)
    config = TrainConfig()
    optimizer = make_optimizer(policy, config)
    (policy.hidden(batch(policy, (5, 3))).sum() + policy.head.weight.sum()).backward()
    apply_gradients(policy, optimizer, config, 0)
    assert planned.weights(torch.float32) == nbytes(policy.parameters())
    assert planned.weights(torch.float32) == nbytes(p.grad for p in policy.parameters())
    assert planned.adam() == nbytes(optimizer_tensors(policy, optimizer).values())
    assert (planned.vocab, planned.width) == tuple(policy.head.weight.shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_engine_holds_what_is_planned(checkpoints, family, dtype):
    config = RlConfig(model=ModelConfig(path=str(checkpoints[family]), dtype=str(dtype).split(".")[1]))
    config = with_option(config, BATCH_TOKENS, 100)
    weights, cache = Planner(config, Device.gpu(1)).items()[-2:]
    engine = TorchEngine.from_pretrained(
        str(checkpoints[family]), dtype=dtype, device=CPU, max_batch_tokens=100
    )
    engine.generate([[5, 6, 7]], SamplingParams(max_new_tokens=4, temperature=1.0), seeds=[0])
    assert weights.num_bytes == nbytes(engine.decoder.model.parameters())
    assert cache.num_bytes == nbytes(tensor for pair in engine.pool.layers.values() for tensor in pair)


def peak_bytes(run) -> int:
    """Most bytes that torch held at once on the CPU beyond what it held before."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as seen:
        run()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_near_the_measured_peak(checkpoints, family, dtype, checkpointing):
    model = ModelConfig(
        path=str(checkpoints[family]), dtype=dtype, gradient_checkpointing=checkpointing, attention="sdpa"
    )
    policy = Policy.load(model, CPU)
    packed = batch(policy, (150, 150, 150, 150))

    def step() -> None:
        hidden = policy.hidden(packed)
        hidden.backward(torch.ones_like(hidden))

    step()  # gradients are there from now on
    planned = Footprint("model", model).activations(600, getattr(torch, dtype), checkpointing)
    measured = peak_bytes(step)
    assert measured / 1.15 < planned < measured * 1.15, (planned, measured)


def test_live_bytes_by_hand():
    kept = torch.zeros(10)
    with LiveBytes([kept]) as live:
        a = torch.ones(100)  # 400
        b = a * 2  # 800
        del a  # 400
        c = b.view(10, 10)[0]  # a view
        kept.add_(1)
        d = b.double()  # 1200
        del b, d  # 400: the view holds b
    assert (live.now, live.most) == (400, 1200)
    assert len(c) == 10


def write_config(folder: Path, config) -> Path:
    config.save_pretrained(folder)  # no weights, no tokenizer
    return folder


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> Path:
    """The first layers of seven billion parameters, on paper: a folder with config.json alone."""
    return write_config(
        tmp_path_factory.mktemp("big"),
        LlamaConfig(
            vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=2,
            num_attention_heads=28, num_key_value_heads=4, head_dim=128, tie_word_embeddings=False,
        ),
    )  # fmt: skip


def big_config(path: Path) -> RlConfig:
    config = RlConfig(
        model=ModelConfig(path=str(path)),
        loss=LossConfig(kl_coef=0.001),
        train=TrainConfig(tokens_per_microbatch=16384),
    )
    return with_option(config, "rollout.max_new_tokens", 2048)


def test_a_large_model_by_hand(big):
    items = {item.name: item.num_bytes for item in Planner(big_config(big), Device.gpu(80)).items()}
    attention = 3584 * 128 * (28 + 4 + 4 + 28)
    parameters = 2 * 152064 * 3584 + 2 * (attention + 3 * 3584 * 18944 + 2 * 3584) + 3584
    assert items["policy weights"] == items["gradients"] == items["reference weights"] == 4 * parameters
    assert items["policy engine weights"] == 2 * parameters
    assert items["optimizer states"] == 8 * parameters + 4 * (3 + 2 * 9)
    assert items["policy engine KV cache"] == (65536 + 16) * 2 * 2 * 4 * 128 * 2
    # a piece of 512 rows of float32 logits, 5 chunks of 16384 rows: 3328 rows of bfloat16 gradients
    assert items["logits"] == 512 * 152064 * 4 + 3328 * 152064 * 2
    assert kept_layout(torch.device("cuda"), 152064, None, False).chunk_sizes(16384)[0] == 3328
    # the head's gradient and its cast; hidden states and their gradient
    assert items["head"] == (4 + 2) * 152064 * 3584 + 2 * 16385 * 3584 * 2
    # at least what every implementation keeps: a residual and 4 of the MLP's width a layer, in bfloat16
    kept = 16384 * 2 * 2 * (3584 + 4 * 18944)
    assert kept < items["activations"] < 3 * kept


def test_a_receiver_has_its_own_weights_and_cache(checkpoints):
    config = RlConfig(model=ModelConfig(path=str(checkpoints["qwen3"])))
    alone = Planner(config, Device.gpu(1)).needed()
    transfer = TransferConfig(receiver=CheckpointConfig(path=str(checkpoints["llama"])))
    reward = replace(config.reward, functions=("transfer",), weights=(1.0,))
    planner = Planner(replace(config, transfer=transfer, reward=reward), Device.gpu(1))
    llama = footprint(checkpoints["llama"])
    cache = (65536 + 16) * llama.kv_per_token(torch.bfloat16)
    assert planner.needed() == alone + llama.weights(torch.bfloat16) + cache


@pytest.fixture
def device_for(big):
    """One whose usable memory is a share of what the large configuration needs."""
    needed = Planner(big_config(big), Device.gpu(1)).needed()
    return lambda share: Device("cuda", "GPU", int(share * needed / USABLE))


def test_a_hint_is_what_the_plan_comes_to_with_the_option(big, device_for):
    planner = Planner(big_config(big), device_for(0.9))
    line = hint(planner)
    options = dict(smaller(planner))
    assert options == {SLEEP: True, CHECKPOINTING: True, MICROBATCH: 8192, BATCH_TOKENS: 32768}
    for name, value in options.items():
        needed = Planner(with_option(planner.config, name, value), planner.device).needed()
        assert needed < planner.needed()
        fits = ", fits" if needed <= planner.usable else ""
        assert f"--{name} {str(value).lower()} ({size(needed)}{fits})" in line
    assert ", fits" in line and line.startswith("needs less with --engine.sleep true")


def test_an_option_that_changes_nothing_is_not_named(big, device_for):
    """Asleep in the update, which decides, the engine's batch takes nothing; a switch is not turned twice."""
    config = with_option(big_config(big), SLEEP, True)
    line = hint(Planner(config, device_for(0.5)))
    assert CHECKPOINTING in line and MICROBATCH in line
    assert SLEEP not in line and BATCH_TOKENS not in line


def test_what_is_refused_is_not_named(big, device_for):
    config = big_config(big)
    stale = replace(config, rollout=replace(config.rollout, max_staleness=1))  # which refuses sleep
    assert SLEEP not in dict(smaller(Planner(stale, device_for(0.76))))
    alone = with_option(config, "run.deterministic", True)  # each sequence goes alone
    assert MICROBATCH not in dict(smaller(Planner(alone, device_for(0.76))))


def test_the_page_ends_with_the_verdict_or_the_hint(big, device_for):
    config = big_config(big)
    fits, page = stage_page(config, device_for(1.01))
    assert fits and page.splitlines()[-1].startswith("fits: ")
    fits, page = stage_page(config, device_for(0.97))
    assert not fits
    *_, verdict, last = page.splitlines()
    assert verdict.startswith("does not fit: ") and last == hint(Planner(config, device_for(0.97)))


def test_a_plan_that_nothing_helps(big):
    config = RewardModelConfig(
        model=BackboneConfig(path=str(big), gradient_checkpointing=True),
        max_tokens=512,
        train=TrainConfig(tokens_per_microbatch=512),
    )
    fits, page = stage_page(config, Device.gpu(1))
    assert not fits and page.splitlines()[-1] == "use a larger device or a smaller model"


def test_what_sleeps_is_not_there_in_the_update(big):
    config = big_config(big)
    asleep = with_option(config, SLEEP, True)
    awake_items = Planner(config, Device.gpu(80)).items()
    engine = sum(item.num_bytes for item in awake_items if item.name.startswith("policy engine"))
    on_gpu, on_cpu = Device.gpu(80), Device("cpu", "RAM", 80 * GIB)
    assert Planner(config, on_gpu).needed() == Planner(asleep, on_gpu).needed() + engine
    cache = next(item for item in Planner(config, on_cpu).items() if item.name == "policy engine KV cache")
    assert Planner(config, on_cpu).needed() == Planner(asleep, on_cpu).needed() + cache.num_bytes


def test_a_mixture_of_experts_says_what_it_can_not_know(tmp_path):
    config = Qwen3MoeConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    recipe = RlConfig(model=ModelConfig(path=str(write_config(tmp_path, config))))
    activations = next(i for i in Planner(recipe, Device.gpu(1)).items() if i.name == "activations")
    assert activations.num_bytes is None
    _, page = stage_page(recipe, Device.gpu(1))
    assert any(" ? " in line and "unknown" in line for line in page.splitlines())


def test_sft_has_no_engine(checkpoints):
    items = Planner(SftConfig(model=ModelConfig(path=str(checkpoints["llama"]))), Device.gpu(1)).items()
    assert [item.name for item in items] == [
        "policy weights", "gradients", "optimizer states", "activations", "logits", "head",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(None, "?"), (512, "0.50 KiB"), (3 << 20, "3.00 MiB"), (5 * GIB // 2, "2.50 GiB")]
)
def test_sizes(num_bytes, text):
    assert size(num_bytes) == text


@pytest.fixture
def recipe(tmp_path, big):
    path = tmp_path / "recipe.yaml"
    model = {"path": str(big)}
    path.write_text(yaml.safe_dump({"stage": "rl", "model": model, "run": {"dir": str(tmp_path / "run")}}))
    return path


def test_the_command(recipe, tmp_path, capsys):
    assert main(["plan", str(recipe), "--gpu_gib", "400", "--train.tokens_per_microbatch", "4096"]) == 0
    out = capsys.readouterr().out
    assert "fits" in out and "of 400.00 GiB, GPU" in out
    assert "a forward and backward of 4,096 tokens" in out
    assert main(["plan", str(recipe), "--gpu_gib", "15"]) == 1
    out = capsys.readouterr().out
    assert "does not fit" in out and "needs less with --engine.sleep true" in out
    assert main(["plan", str(recipe), "--run.device", "cpu"]) in (0, 1)
    assert "RAM" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--help"])
    assert ended.value.code == 0
    assert "usage: fastrl plan RECIPE [--gpu_gib N] [--nproc N]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gpu_gib"], "[plan] gpu_gib: expected a number, got nothing"),
        (["--gpu_gib", "many"], "[plan] gpu_gib: expected a number, got 'many'"),
        (["--gpu_gib", "0"], "[plan] gpu_gib: expected > 0, got 0.0"),
        (
            ["--sampled_per_s", "9"],
            "[plan] sampled_per_s: expected memory options only, since plan",
        ),
        (["--trained-per-s=9"], "fastrl train RECIPE --train.num_steps 3 measures a step: time/rollout_s"),
        (["--model.path", "./none"], "[model] path: expected a model folder or hub name, got './none'"),
        (["--model.path", "EMPTY"], "[model] path: expected a folder with config.json"),
    ],
)
def test_a_users_error_is_one_line(flags, message, recipe, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    flags = [str(tmp_path / "empty") if flag == "EMPTY" else flag for flag in flags]
    assert main(["plan", str(recipe), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_folder_has_no_weights(big):
    assert [path.name for path in big.iterdir() if path.suffix in (".safetensors", ".bin")] == []
    assert json.loads((big / "config.json").read_text())["model_type"] == "llama"


def test_judges_are_planned_if_configured(checkpoints):
    judge = WriterConfig(
        model=CheckpointConfig(path=str(checkpoints["llama"])),
        engine=EngineConfig(sleep=True, max_batch_tokens=512),
    )
    own = FaithfulnessConfig(enabled=True, path="some.jsonl", judge=judge)
    config = RlConfig(model=ModelConfig(path=str(checkpoints["qwen3"])), eval=EvalConfig(faithfulness=own))
    device = Device("cuda", "GPU", GIB)
    items = {item.name: item for item in Planner(config, device).items()}
    weights = footprint(checkpoints["llama"]).weights(torch.bfloat16)
    assert (items["judge weights"].num_bytes, items["judge weights"].when) == (weights, "judge")
    # keys and values of 512 tokens and a block more: 2 layers x 2 x 2 heads x 8, bfloat16
    assert items["judge KV cache"].num_bytes >= 512 * 128
    assert "second judge weights" not in items
    off = replace(config, eval=EvalConfig(faithfulness=replace(own, enabled=False)))
    assert "judge weights" not in {item.name for item in Planner(off, device).items()}
