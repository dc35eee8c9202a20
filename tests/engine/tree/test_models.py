"""Architectures: which are computed right, and which are refused before generation."""

import pytest
import torch
import transformers
from checkpoints import SIZES, byte_tokenizer
from transformers import AutoModelForCausalLM

from fastrl.engine.tree.engine import TorchEngine
from fastrl.types import Branch, PrefixTree, SamplingParams

WINDOW = {"sliding_window": 6}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SUPPORTED = {
    "LlamaConfig": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "Qwen3Config": {"tie_word_embeddings": True, "head_dim": 16},
    "Qwen2Config": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "Gemma3TextConfig": {**WINDOW, "query_pre_attn_scalar": 8},
    "CohereConfig": {"logit_scale": 0.3},
    "GraniteConfig": {"logits_scaling": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    "Qwen3MoeConfig": EXPERTS,
    "Olmo2Config": {},
    "NemotronConfig": {},
    "DeepseekV3Config": {
        **{k: EXPERTS[k] for k in ("num_experts_per_tok", "moe_intermediate_size")},
        "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "kv_lora_rank": 8,
        "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "head_dim": 8,
        "first_k_dense_replace": 1,
    },
}  # fmt: skip
REFUSED = {
    "MambaConfig": "expected a decoder with exchangeable attention",
    "BloomConfig": "expected a decoder with exchangeable attention",
    "Qwen3NextConfig": "expected a decoder with exchangeable attention",
    "Llama4TextConfig": "chunked_attention",
    "GptOssConfig": "expected plain attention, got s_aux",
}


def model(config_name: str, **options: object):
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**{**SIZES, "initializer_range": 0.3, **options})
    made = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:  # norms begin at one and biases at zero, where mistakes don't show
                parameter += 0.3 * torch.randn(parameter.shape)
    return made


@pytest.mark.parametrize("name", SUPPORTED)
def test_greedy_tree_is_the_models_own(name):
    reference = model(name, **SUPPORTED[name])
    engine = TorchEngine(model(name, **SUPPORTED[name]), byte_tokenizer())
    trunk = [7, 100, 31, 9, 55, 200, 18, 90]
    branches = [Branch(token_ids=trunk[:n], max_new_tokens=6, seed=0) for n in (0, 3, 8)]
    tree = PrefixTree(prompt_ids=[50, 60, 70], branches=branches)
    found = engine.continue_prefixes([tree], SamplingParams(temperature=0))[0]
    for branch, (completion,) in zip(branches, found, strict=True):
        sequence = [*tree.prompt_ids, *branch.token_ids, *completion.token_ids]
        with torch.no_grad():
            logits = reference(torch.tensor([sequence]), use_cache=False).logits[0].double()
        own = logits[-len(completion.token_ids) - 1 : -1].log_softmax(-1)
        assert own.argmax(-1).tolist() == completion.token_ids
        assert own.max(-1).values.tolist() == pytest.approx(completion.logprobs, abs=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_when_made(name):
    options = {**EXPERTS, "attention_chunk_size": 8, "intermediate_size_mlp": 48, "num_local_experts": 4}
    with pytest.raises(NotImplementedError, match=REFUSED[name]):
        TorchEngine(model(name, **options), byte_tokenizer())


def test_a_model_that_the_engine_misreads_is_refused():
    odd = model("LlamaConfig")
    # its own attention sees a scaling that the engine is not told of
    attention = type(odd.model.layers[0].self_attn)

    class Odd(attention):
        def forward(self, *args, **kwargs):
            self.scaling = 0.35 if self.config._attn_implementation == "eager" else 2.0
            return super().forward(*args, **kwargs)

    odd.model.layers[0].self_attn.__class__ = Odd
    with pytest.raises(NotImplementedError, match="does not know how this model computes"):
        TorchEngine(odd, byte_tokenizer())


def test_a_stretched_rope_ends_where_its_angles_would_change():
    rope = {
        "rope_type": "dynamic",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
    }
    engine = TorchEngine(model("LlamaConfig", rope_parameters=rope), byte_tokenizer())
    assert engine.max_model_len == 64


def test_the_models_attention_works_only_inside_the_engine():
    engine = TorchEngine(model("LlamaConfig"), byte_tokenizer())
    with pytest.raises(RuntimeError, match="expected a forward pass of the engine"):
        engine.decoder.model(torch.tensor([[5, 6]]))
