"""The embedded engine: samples and scores with any Hugging Face decoder, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from fastrl.engine.decoder import Decoder
from fastrl.engine.jobs import Job, make_job
from fastrl.engine.prefix_tree import Ints
from fastrl.engine.probe import probe
from fastrl.engine.protocol import EngineStats, Scores, checksum
from fastrl.engine.scheduler import Scheduler
from fastrl.engine.scoring import score_sequences
from fastrl.engine.stopping import StopRule, Vocabulary
from fastrl.engine.weights import copy_weights, named_weights
from fastrl.types import Branch, Completion, PrefixTree, SamplingParams


class TorchEngine:
    """`fastrl.engine.protocol.Engine` over a Hugging Face decoder. The model becomes the engine's own."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, max_batch_tokens: int = 65536) -> None:
        """max_batch_tokens: > 0, tokens of KV cache that run at once; more requests wait their turn.

        Raises:
            NotImplementedError: the model keeps more than keys and values, or attends in a way that the
                engine does not.
        """
        if max_batch_tokens < 1:
            raise ValueError(f"[engine] max_batch_tokens: expected > 0, got {max_batch_tokens}")
        self.tokenizer = tokenizer
        self.decoder = Decoder(model, tokenizer)
        self._vocabulary = Vocabulary(tokenizer, self.decoder.vocab_size)
        probe(self.decoder, self._vocabulary)
        self.max_model_len = self.decoder.max_model_len
        self.max_batch_tokens = max_batch_tokens
        self.weights_version = 0
        self._device = self.decoder.device
        self._asleep = False
        self._stats = EngineStats()
        self._end_ids = _end_ids(model, tokenizer)

    @classmethod
    def from_pretrained(
        cls, path: str, *, dtype: torch.dtype, device: torch.device, max_batch_tokens: int = 65536,
        trust_remote_code: bool = False,
    ) -> TorchEngine:  # fmt: skip
        """The engine of a checkpoint folder or hub name, with its tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model = Decoder.load(path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return cls(model, tokenizer, max_batch_tokens=max_batch_tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """n completions of each prompt; sample j of prompt i draws from (seeds[i], j) alone."""
        if len(seeds) != len(prompts):
            raise ValueError(f"[engine] seeds: expected {len(prompts)}, one a prompt, got {len(seeds)}")
        if n < 1:
            raise ValueError(f"[engine] n: expected >= 1, got {n}")
        trees = [
            PrefixTree(prompt_ids=prompt, branches=[_whole_prompt(n, sampling.max_new_tokens, seed)])
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [branches[0] for branches in self.continue_prefixes(trees, sampling)]

    @torch.inference_mode()
    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams
    ) -> list[list[list[Completion]]]:
        """[tree][branch][sample]; every distinct token path of a tree is prefilled once.

        prefill tokens = sum over trees of |distinct non-empty prefixes of prompt + branch|
        """
        self._check_awake()
        jobs: list[Job] = []
        num_rows = 0
        for tree in trees:
            self._check(tree)
            jobs.append(make_job(tree, num_rows))
            self._check_ids("prompt", jobs[-1].trie.tokens)
            num_rows += len(jobs[-1].rows)
            self._stats.prompt_tokens_asked += sum(
                b.num_samples * (len(tree.prompt_ids) + len(b.token_ids)) for b in tree.branches
            )
        self._stats.requests += num_rows
        stop = StopRule(self._vocabulary, self._end_ids, sampling)
        scheduler = Scheduler(self.decoder, sampling, stop, self.max_batch_tokens, self._stats)
        finished = sorted(scheduler.run([job for job in jobs if len(job.rows)]), key=lambda f: f.row)
        self._stats.generated_tokens += sum(len(f.token_ids) for f in finished)
        self._stats.decode_tokens += sum(len(f.token_ids) - 1 for f in finished)
        texts = self.tokenizer.batch_decode([f.token_ids for f in finished], skip_special_tokens=True)
        completions = iter(
            Completion(
                token_ids=f.token_ids, logprobs=f.logprobs, text=text,
                finish_reason="stop" if f.stopped else "length",
            )
            for f, text in zip(finished, texts, strict=True)
        )  # fmt: skip
        return [
            [[next(completions) for _ in range(branch.num_samples)] for branch in tree.branches]
            for tree in trees
        ]

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]], temperature: float = 1.0) -> list[Scores]:
        """Log-probability, entropy and self-certainty (nats) of every token given those before it."""
        self._check_awake()
        if not temperature > 0:
            raise ValueError(f"[engine] temperature: expected > 0, got {temperature}")
        longest = max((len(sequence) for sequence in sequences), default=0)
        if longest > self.max_model_len:
            raise ValueError(
                f"[engine] sequences: expected <= max_model_len {self.max_model_len}, got {longest}"
            )
        for sequence in sequences:
            self._check_ids("sequences", sequence)
        return score_sequences(self.decoder, sequences, temperature, self.max_batch_tokens)

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int) -> str:
        """Copy every weight in, cast to the engine's type; returns the checksum of what it then holds.

        Raises:
            ValueError: a name is unknown or missing, or a shape differs. The weights are then undefined.
        """
        self._check_awake()
        copy_weights(self.decoder.model, tensors)
        self.decoder.refresh()
        self.weights_version = version
        return checksum(named_weights(self.decoder.model))

    def sleep(self, level: int = 1) -> None:
        """Level 1, the only one: weights move to host memory. No cache outlives a call."""
        if level != 1:
            raise ValueError(f"[engine] level: expected 1, got {level}")
        self._asleep = True
        self.decoder.model.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self.decoder.model.to(self._device)
        self.decoder.place()
        self._asleep = False

    def stats(self) -> EngineStats:
        """A copy of the counters."""
        return replace(self._stats)

    def _check_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("[engine] state: expected awake, got asleep; call wake() first")

    def _check_ids(self, name: str, ids: Sequence[int] | Ints) -> None:
        array, size = np.asarray(ids, dtype=np.int64), self.decoder.vocab_size
        outside = array[(array < 0) | (array >= size)]
        if len(outside):
            raise ValueError(f"[engine] {name}: expected token ids in [0, {size}), got {outside[0]}")

    def _check(self, tree: PrefixTree) -> None:
        for branch in tree.branches:
            if branch.num_samples < 1:
                raise ValueError(f"[engine] num_samples: expected >= 1, got {branch.num_samples}")
            if branch.max_new_tokens < 1:
                raise ValueError(f"[engine] max_new_tokens: expected >= 1, got {branch.max_new_tokens}")
            prefix = len(tree.prompt_ids) + len(branch.token_ids)
            for name, room in (
                ("max_model_len", self.max_model_len),
                ("max_batch_tokens", self.max_batch_tokens),
            ):
                if prefix + branch.max_new_tokens > room:
                    raise ValueError(
                        f"[engine] prompt: expected prompt + max_new_tokens <= {name} {room}, "
                        f"got {prefix} + {branch.max_new_tokens}"
                    )


def _whole_prompt(n: int, max_new_tokens: int, seed: int) -> Branch:
    return Branch(token_ids=(), num_samples=n, max_new_tokens=max_new_tokens, seed=seed)


def _end_ids(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """End tokens of the tokenizer and of the model's generation config."""
    found: set[int] = set()
    for holder in (tokenizer, model.generation_config):
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return sorted(found)
