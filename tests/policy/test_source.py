"""A .gguf file as model path: converted once into a model folder that computes the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from fastrl.check.model import check_model, load_tokenizer
from fastrl.config import CheckpointConfig, EngineConfig, ModelConfig
from fastrl.engine.build import build_engine
from fastrl.policy import source
from fastrl.policy.model import Policy
from fastrl.policy.source import model_source
from fastrl.types import SamplingParams

CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH = 4, 2, 64
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/gguf"


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=256 + 4 + 1, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=128,
        tie_word_embeddings=False, rms_norm_eps=1e-5, rope_theta=5e4, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
    return model


@pytest.fixture(scope="module")
def file(original, byte, tmp_path_factory):
    """The model as gguf's own writer stores it: 8-bit matrices in blocks of 32, the rest in float32."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    config = original.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(byte.get_vocab(), key=byte.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*vocabulary, "th"])
    writer.add_token_types([3] * 4 + [1] * 257)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template(byte.chat_template)
    for name, tensor in original.state_dict().items():
        values = as_llama_cpp(name, tensor.numpy())
        if values.ndim == 1:
            writer.add_tensor(stored_name(name), values)
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(stored_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored_name(name):
    module, _, last = name.rpartition(".")
    if module in WHOLE:
        return f"{WHOLE[module]}.{last}"
    _, _, layer, part = module.split(".", 3)
    return f"blk.{layer}.{PARTS[part]}.{last}"


def as_llama_cpp(name, values):
    """Its rotary embedding turns neighbouring rows of a head, transformers' rows half a head apart."""
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return values
    return np.ascontiguousarray(values.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(values.shape))


def rounded(tensor):
    """Q8_0: in each block of 32, d = max|x| / 127 in float16, and x becomes d * round(x / d)."""
    blocks = tensor.reshape(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    return (torch.round(blocks / scale) * scale.half().float()).view(tensor.shape)


def test_it_is_an_ordinary_folder_that_computes_what_the_file_holds(original, file, byte, capsys):
    folder = model_source(str(file))
    assert capsys.readouterr().err == f"fastrl: converting {file} to {folder}, once\n"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    assert model.config.eos_token_id == 1 and model.config.max_position_embeddings == 128
    for name, tensor in original.state_dict().items():
        expected = rounded(tensor) if tensor.ndim == 2 else tensor
        torch.testing.assert_close(model.state_dict()[name], expected, rtol=0, atol=1e-6)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == byte.chat_template and tokenizer.eos_token_id == 1
    assert tokenizer.encode("<user>ath", add_special_tokens=False) == [2, *byte.encode("a"), 260]


def test_it_is_converted_once_for_what_is_in_it(file, cache, tmp_path, capsys):
    folder = model_source(str(file))
    renamed = tmp_path / "tiny.Q8_0.gguf"
    renamed.write_bytes(file.read_bytes())
    assert model_source(str(file)) == model_source(str(renamed)) == folder
    assert capsys.readouterr().err.count("converting") == 1
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [folder.rpartition("/")[2]]
    with renamed.open("ab") as more:
        more.write(b"\0" * 32)
    assert model_source(str(renamed)) != folder


def test_a_policy_an_engine_and_the_checks_take_it(file):
    path = str(file)
    assert check_model("model", CheckpointConfig(path=path)) == 128
    tokenizer = load_tokenizer("model", CheckpointConfig(path=path))
    prompt = tokenizer.encode("ab", add_special_tokens=False)
    policy = Policy.load(ModelConfig(path=path), CPU)
    engine = build_engine(CheckpointConfig(path=path), EngineConfig(), CPU)
    (found,) = engine.generate([prompt], SamplingParams(max_new_tokens=6, temperature=0), seeds=[0])[0]
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*prompt, *found.token_ids]]), use_cache=False).logits[0]
    assert logits.argmax(-1)[len(prompt) - 1 : -1].tolist() == list(found.token_ids)


def test_a_failure_leaves_nothing(file, cache, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=r"\[transfer.receiver\] path: expected a .gguf file that transformers"
    ):
        model_source(str(broken), "transfer.receiver")
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_of_two_that_ask_at_once_one_converts(file, monkeypatch):
    """Each opens the lock for itself, as two processes do."""
    done, convert = [], source.convert
    monkeypatch.setattr(source, "convert", lambda *arguments: done.append(convert(*arguments)))
    with ThreadPoolExecutor(2) as threads:
        folders = list(threads.map(model_source, [str(file)] * 2))
    assert folders[0] == folders[1] and len(done) == 1


@pytest.mark.parametrize("missing", [("gguf",), ("gguf", "accelerate")])
def test_packages_that_are_missing_are_named(tmp_path, monkeypatch, missing):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(source, "find_spec", lambda name: None if name in missing else 1)
    wanted = " ".join(f"'{source.NEEDED[name]}'" for name in missing)
    with pytest.raises(
        ValueError, match=r"\[model\] path: expected .* not installed: pip install"
    ) as refused:
        model_source(str(file))
    assert wanted in str(refused.value)


def test_other_paths_stay_as_they_are(tmp_path):
    folder = tmp_path / "folder.gguf"
    folder.mkdir()
    for path in ("Qwen/Qwen2.5-0.5B", "./model", str(folder)):
        assert model_source(path) == path
    with pytest.raises(
        FileNotFoundError, match=r"\[model\] path: expected an existing file, got 'none.gguf'"
    ):
        model_source("none.gguf")
