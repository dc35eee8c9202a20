"""Sharded loading: each rank reads its rows, bit for bit those of a plain load, in less memory."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path

import pytest
import torch
from rank_processes import on_ranks
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from fastrl.config import LoraConfig, ModelConfig
from fastrl.policy.model import Policy
from fastrl.policy.shard import Sharding, gather
from fastrl.policy.shard_load import outline, stand_ins, tensors_to_read, weight_files, why_converted

CPU = torch.device("cpu")
M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""
FAMILIES = ("qwen3", "llama", "gemma2", "gpt2")


@pytest.fixture(scope="module")
def folders(checkpoints, tmp_path_factory) -> dict[str, str]:
    """Every family, and the ways in which files of weights come."""
    found = {family: str(checkpoints[family]) for family in FAMILIES}
    made = tmp_path_factory.mktemp("folders")
    for name, family, change in (
        ("many-files", "llama", lambda model, folder: model.save_pretrained(folder, max_shard_size="20KB")),
        ("bfloat16", "qwen3", lambda model, folder: model.bfloat16().save_pretrained(folder)),
        ("bare", "gpt2", lambda model, folder: model.base_model.save_pretrained(folder)),
        ("doubled", "qwen3", save_tied_twice),
        ("head-alone", "qwen3", save_the_head_alone),
    ):
        model = AutoModelForCausalLM.from_pretrained(checkpoints[family])
        change(model, made / name)
        copy_tokenizer(checkpoints[family], made / name)
        found[name] = str(made / name)
    experts = Qwen3MoeConfig(
        vocab_size=260, hidden_size=32, moe_intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_experts=3, num_experts_per_tok=2, decoder_sparse_step=1,
    )  # fmt: skip
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(experts).save_pretrained(made / "experts")
    copy_tokenizer(checkpoints["qwen3"], made / "experts")
    return found | {"experts": str(made / "experts")}


def copy_tokenizer(source: Path, folder: Path) -> None:
    for path in source.glob("token*"):
        shutil.copy(path, folder)


def save_tied_twice(model: nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_the_head_alone(model: nn.Module, folder: Path) -> None:
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def held(policy: Policy) -> dict[str, torch.Tensor]:
    """Every parameter, tied ones under both names, and every buffer."""
    tensors = [*policy.model.named_parameters(remove_duplicate=False), *policy.model.named_buffers()]
    return {name: gather(tensor.detach(), CPU).clone() for name, tensor in tensors}


def loaded(ranks, folders: dict[str, str], rank: int, offload: bool = False) -> dict[str, object]:
    sharding = Sharding(offload) if ranks and ranks.size > 1 else None
    found = {}
    for name, path in folders.items():
        model = ModelConfig(path=path, lora=LoraConfig(rank=rank))
        policy = Policy.load(model, CPU, seed=4, sharding=sharding)
        trained = [each for each, p in policy.model.named_parameters() if p.requires_grad]
        about = (policy.model.config.to_json_string(), policy.model.generation_config.to_json_string())
        found[name] = (held(policy), trained, about, policy.model.name_or_path)
    return found


def check_equal(want: dict[str, object], got: dict[str, object]) -> None:
    assert want.keys() == got.keys()
    for name, (tensors, trained, about, path) in want.items():
        mine, mine_trained, mine_about, mine_path = got[name]
        assert (mine_trained, mine_about, mine_path) == (trained, about, path), name
        assert mine.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert mine[key].dtype == tensor.dtype and torch.equal(mine[key], tensor), (name, key)


def test_three_ranks_hold_what_a_plain_load_reads(folders, tmp_path):
    """32 rows over 3 ranks are 11, 11 and 10; 2 key-value heads of 8 are 6, 6 and 4."""
    want = loaded(None, folders, 0)
    assert all("inv_freq" in " ".join(want[name][0]) for name in ("qwen3", "llama", "gemma2"))
    assert torch.equal(want["qwen3"][0]["lm_head.weight"], want["qwen3"][0]["model.embed_tokens.weight"])
    for got in on_ranks(3, loaded, tmp_path / "found", folders, 0):
        check_equal(want, got)


def test_adapters_are_drawn_as_in_a_plain_load(folders, tmp_path):
    some = {name: folders[name] for name in ("llama", "gpt2", "many-files")}
    want = loaded(None, some, 3)
    drawn = [tensor for name, tensor in want["llama"][0].items() if "lora_A" in name]
    assert drawn and all(tensor.abs().sum() > 0 for tensor in drawn)
    for got in on_ranks(2, loaded, tmp_path / "found", some, 3, True):
        check_equal(want, got)


def test_checkpoints_that_need_a_conversion(folders):
    """Where names agree, ranks read rows; else the first converts."""
    reasons = {}
    for name, path in folders.items():
        model = outline(path, attn_implementation="sdpa", trust_remote_code=False)
        reasons[name] = why_converted(model, tensors_to_read(model), weight_files(path))
    assert {name for name, reason in reasons.items() if reason} == {"bare", "doubled", "experts"}
    assert reasons["bare"] == "its files have no transformer.wte.weight"
    assert reasons["doubled"].startswith("its files have both model.embed_tokens.weight and lm_head.weight")
    assert len(set(weight_files(folders["many-files"]).values())) > 3


def test_a_bare_decoder_reads_its_rows_out_of_a_whole_models_files(folders):
    for name in ("llama", "gpt2", "bare", "many-files"):
        model = outline(folders[name], AutoModel, attn_implementation="sdpa", trust_remote_code=False)
        assert why_converted(model, tensors_to_read(model), weight_files(folders[name])) == "", name


def test_an_outline_has_no_memory_and_buffers_have(folders):
    model = outline(folders["qwen3"], attn_implementation="sdpa", trust_remote_code=False)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    before = dict(model.named_parameters())
    with stand_ins(model):
        inside = model.model.embed_tokens.weight
        assert inside.shape == (260, 32) and inside.untyped_storage().nbytes() == 4
        model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert not model.model.layers[0].mlp.up_proj.weight.requires_grad
    assert model.model.layers[1].mlp.up_proj.weight.requires_grad
    fresh = nn.Linear(2, 3)  # modules made afterwards are as ever
    assert not fresh.weight.is_meta


def refused(ranks, path: str) -> str:
    try:
        Policy.load(ModelConfig(path=path), CPU, sharding=Sharding())
    except ValueError as error:
        return str(error)
    return "loaded"


def test_weights_of_other_shapes_and_quantised_ones_are_refused(folders, tmp_path):
    for name in ("shape", "quantised"):
        shutil.copytree(folders["llama"], tmp_path / name)
    weights = load_file(tmp_path / "shape/model.safetensors")
    weights["model.norm.weight"] = torch.ones(31)
    save_file(weights, tmp_path / "shape/model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "quantised/config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "quantised/config.json").write_text(json.dumps(config))
    for found in on_ranks(2, refused, tmp_path / "found1", str(tmp_path / "shape")):
        assert found == "[model] path: expected model.norm.weight of shape (32,), got (31,)"
    for found in on_ranks(2, refused, tmp_path / "found2", str(tmp_path / "quantised")):
        assert found.startswith("[train] shard: expected false for a model whose weights are quantised")


def resident(name: str) -> int:
    """VmRSS, now, or VmHWM, the most since it was cleared; bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


def peak(ranks, small: str, large: str, whole: bool) -> int:
    """Bytes that loading takes at most. glibc gives freed blocks of 64 KiB and more back at once."""
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 65536)
    for path in (small, large):
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        policy = Policy.load(ModelConfig(path=path), CPU, sharding=None if whole else Sharding())
        most = resident("VmHWM") - before
    assert policy.parameters()
    return most


def test_a_ranks_memory_is_its_part_and_one_tensor(checkpoints, tmp_path):
    """Read from bfloat16, 42 MB on 2 ranks: 21 MB each, and 2 of a tensor of 8 MB on top, as it is read."""
    config = LlamaConfig(
        vocab_size=4096, hidden_size=512, intermediate_size=1536, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.bfloat16().save_pretrained(tmp_path / "large")
    copy_tokenizer(checkpoints["llama"], tmp_path / "large")
    whole, most = (find(4 * p.numel() for p in model.parameters()) for find in (sum, max))
    paths = str(checkpoints["llama"]), str(tmp_path / "large")
    for found in on_ranks(2, peak, tmp_path / "sharded", *paths, False):
        assert whole / 2 < found < whole / 2 + most, (found, whole, most)
    (found,) = on_ranks(1, peak, tmp_path / "plain", *paths, True)
    assert whole < found
