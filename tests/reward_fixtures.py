"""Tokenizers and a grader shared by the reward tests."""

from __future__ import annotations

import pytest
from checkpoints import CHAT, SPECIAL, byte_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from fastrl.grading import AnswerGrader

CORPUS = [
    "the answer is \\boxed{42}, so 3 + 4 = 7 and 12 * 3 = 36.\n",
    "the sum of 界 and 世界 is 你好 🙂🙃 🙂 so the answer is \\boxed{7}\n",
] * 20


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
    fast.chat_template = CHAT
    return fast


@pytest.fixture(scope="session")
def byte() -> PreTrainedTokenizerFast:
    """A token a byte."""
    return byte_tokenizer()


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE: tokens of several letters, and of parts of characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<eos>", "<user>", "<assistant>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer)


@pytest.fixture(scope="session")
def spaced() -> PreTrainedTokenizerFast:
    """Like Llama 2: a space goes before every text, and unknown characters fall back to bytes."""
    pieces = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁abcdefghijklmnopqrstuvwxyz0123456789+=-*.\\{}",
    ]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrapped(tokenizer)


@pytest.fixture(scope="session")
def grader():
    with AnswerGrader(num_workers=1, timeout_s=10.0) as shared:
        yield shared
