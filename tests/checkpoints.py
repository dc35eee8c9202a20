"""Tiny random Hugging Face checkpoints of several architectures, with a real tokenizer and chat template."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL = ["<pad>", "<eos>", "<user>", "<assistant>"]
CHAT = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' if m['role'] != 'system' else '' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
CONFIGS = {
    "qwen3": lambda: Qwen3Config(**SIZES, tie_word_embeddings=True),
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=False),
    "gemma2": lambda: Gemma2Config(
        **SIZES, query_pre_attn_scalar=8, sliding_window=6,
        final_logit_softcapping=30.0, attn_logit_softcapping=20.0,
    ),
    "mistral_window": lambda: MistralConfig(**SIZES, sliding_window=6),
    "gpt2": lambda: GPT2Config(
        vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=None, eos_token_id=1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Four special tokens and the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    fast.chat_template = CHAT
    return fast


def write_checkpoint(folder: Path, family: str, seed: int = 0) -> Path:
    """Random weights, larger than an initialisation, so that distributions differ from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def as_before(checkpoint: Path) -> Path:
    """Rearrange a checkpoint as fastrl 0.1 wrote it: all files in one folder, and no card."""
    state = json.loads((checkpoint / "trainer_state/state.json").read_text())
    state["files"] = {old_name(name): digest for name, digest in state["files"].items()}
    (checkpoint / "trainer_state/state.json").write_text(json.dumps(state))
    for path in [path for path in checkpoint.rglob("*") if path.is_file()]:
        path.rename(checkpoint / old_name(str(path.relative_to(checkpoint))))
    (checkpoint / "README.md").unlink(missing_ok=True)
    for folder in ("trainer_state", "rubric"):
        if (checkpoint / folder).exists():
            (checkpoint / folder).rmdir()
    return checkpoint


def old_name(name: str) -> str:
    return name.removeprefix("trainer_state/").replace("rubric/heads", "rubric_heads")
