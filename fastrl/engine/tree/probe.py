"""A check at load time: the engine's log-probs must equal those of the model's own forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from fastrl.engine.protocol import EngineStats
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import BLOCK, KVPool
from fastrl.engine.tree.request_tree import make_request_tree
from fastrl.engine.tree.scheduler import Scheduler
from fastrl.engine.tree.scoring import score_sequences
from fastrl.engine.tree.stopping import StopRule, Vocabulary
from fastrl.types import Branch, PrefixTree, SamplingParams

_PROMPT, _NEW = 4, 3
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_TOLERANCE_HALF = 0.25
"""In nats; 16-bit logits of magnitude 16 are rounded to 0.06."""


@torch.inference_mode()
def probe(decoder: Decoder, vocabulary: Vocabulary) -> None:
    """Raise NotImplementedError unless the engine's log-probs equal the model's own in a short generation."""
    prompt = [(7 * i + 3) % decoder.vocab_size for i in range(_PROMPT)]
    tree = PrefixTree(
        prompt_ids=prompt[:2], branches=[Branch(token_ids=prompt[2:], max_new_tokens=_NEW, seed=0)]
    )
    greedy = SamplingParams(temperature=0, max_new_tokens=_NEW)
    stop = StopRule(vocabulary, (), greedy)
    scheduler = Scheduler(decoder, greedy, stop, KVPool(3 * BLOCK), EngineStats())
    found = scheduler.run([make_request_tree(tree, [0], [0])])[0]
    sequence = torch.tensor(prompt + found.token_ids, device=decoder.device)
    expected = decoder.own_logits(sequence)[:-1].float().log_softmax(-1)
    own = expected.gather(-1, sequence[1:, None])[:, 0].cpu()
    scored = score_sequences(decoder, [sequence.tolist()], 1.0, None, EngineStats())[0].logprobs[1:]
    _compare(decoder, "generate", own[_PROMPT - 1 :], found.logprobs)
    _compare(decoder, "score", own, scored)


def _compare(decoder: Decoder, name: str, own: Tensor, found: list[float]) -> None:
    error = float((own - torch.tensor(found)).abs().max())
    tolerance = _TOLERANCE.get(decoder.head.weight.dtype, _TOLERANCE_HALF)
    if not error <= tolerance:
        raise NotImplementedError(
            f"[engine] {type(decoder.model).__name__}: expected the model's own log-probs in {name} within "
            f"{tolerance}, got a difference of {error:.2g}; the engine does not know how this model computes"
        )
