"""The embedded engine: sampling and scoring with any Hugging Face decoder, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from fastrl.engine.protocol import WEIGHTS_MISSING, EngineStats, Scores
from fastrl.engine.requests import RequestLimits, end_token_ids, prompt_trees, with_special_stops
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import BLOCK, KVPool
from fastrl.engine.tree.outputs import FinishedRequest
from fastrl.engine.tree.probe import probe
from fastrl.engine.tree.request_tree import RequestTree, depth_first, make_request_tree
from fastrl.engine.tree.scheduler import Scheduler
from fastrl.engine.tree.scoring import score_sequences
from fastrl.engine.tree.stopping import StopRule, Vocabulary
from fastrl.engine.tree.weights import copy_weights, named_weights
from fastrl.engine.weight_sums import WeightSum, weight_sums
from fastrl.types import Completion, PrefixTree, SamplingParams


class TorchEngine:
    """`fastrl.engine.protocol.Engine` of a Hugging Face decoder, which the engine then owns."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, *, max_batch_tokens: int = 65536) -> None:
        """Create an engine with a KV cache of max_batch_tokens > 0 tokens; requests that don't fit wait.

        Raises:
            NotImplementedError: the model has other state than keys and values, or an attention that the
                engine does not support.
        """
        if max_batch_tokens < 1:
            raise ValueError(f"[engine] max_batch_tokens: expected > 0, got {max_batch_tokens}")
        self.tokenizer = tokenizer
        self.decoder = Decoder(model, tokenizer)
        self._vocabulary = Vocabulary(tokenizer, self.decoder.vocab_size)
        probe(self.decoder, self._vocabulary)
        self.max_model_len = self.decoder.max_model_len
        self._limits = RequestLimits(self.decoder.vocab_size, self.max_model_len)
        # one more block, since a tree and a tail each round up to whole blocks
        self.pool = KVPool(max_batch_tokens + BLOCK)
        self.weights_version = 0
        self._device = self.decoder.device
        self._asleep, self._whole = False, True
        self._stats = EngineStats()
        self._end_ids = end_token_ids(tokenizer, model.generation_config)

    @classmethod
    def from_pretrained(
        cls, path: str, *, dtype: torch.dtype, device: torch.device, max_batch_tokens: int = 65536,
        trust_remote_code: bool = False,
    ) -> TorchEngine:  # fmt: skip
        """Load a checkpoint folder or hub name, with its tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model = Decoder.load(path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return cls(model, tokenizer, max_batch_tokens=max_batch_tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """Return n completions of each prompt; the seed of sample j of prompt i is (seeds[i], j)."""
        trees = prompt_trees(prompts, sampling, seeds, n)
        return [branches[0] for branches in self.continue_prefixes(trees, sampling)]

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams
    ) -> list[list[list[Completion]]]:
        """Return completions [tree][branch][sample]; tokens that branches share are prefilled once.

        prefill tokens = sum over trees of |distinct non-empty prefixes of prompt + branch|
        """
        return self._run(trees, sampling, [()] * len(trees), 1.0)[0]

    def continue_and_score(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float = 1.0,
    ) -> tuple[list[list[list[Completion]]], list[dict[int, list[float]]]]:  # fmt: skip
        """Return continue_prefixes' completions, and log-probs of some branches from the same prefill.

        Args:
            scored: branches to score, per tree.
        Returns: completions, and {branch: log-probs in nats} per tree.
        """
        completions, request_trees = self._run(trees, sampling, scored, temperature)
        found: list[dict[int, list[float]]] = [{} for _ in trees]
        for number, part in request_trees:
            for branch in set(part.branches) & set(scored[number]):
                assert part.logprobs is not None, "every tree has been prefilled"
                found[number][branch] = part.logprobs[part.branch_slots[branch]].tolist()
        return completions, found

    @torch.inference_mode()
    def _run(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float,
    ) -> tuple[list[list[list[Completion]]], list[tuple[int, RequestTree]]]:  # fmt: skip
        """Return completions, and (index into trees, request tree) of every request tree."""
        self._check_ready()
        self._limits.check_stops(sampling)
        sampling = with_special_stops(self.tokenizer, sampling)
        request_trees: list[tuple[int, RequestTree]] = []
        num_requests = 0
        for number, (tree, wanted) in enumerate(zip(trees, scored, strict=True)):
            self._limits.check_tree(tree)
            counts = [branch.num_samples for branch in tree.branches]
            first_ids = np.cumsum([num_requests, *counts]).tolist()
            own = self._request_trees(tree, first_ids, range(len(counts)), wanted) if counts else []
            request_trees += [(number, part) for part in own]
            num_requests = first_ids[-1]
            self._stats.prompt_tokens_asked += sum(
                b.num_samples * (len(tree.prompt_ids) + len(b.token_ids)) for b in tree.branches
            )
        self._stats.requests += num_requests
        stop = StopRule(self._vocabulary, self._end_ids, sampling)
        scheduler = Scheduler(self.decoder, sampling, stop, self.pool, self._stats, temperature)
        with self._here():
            finished = scheduler.run([part for _, part in request_trees])
        finished.sort(key=lambda request: request.request_id)
        completions = iter(self._completions(finished))
        return [
            [[next(completions) for _ in range(branch.num_samples)] for branch in tree.branches]
            for tree in trees
        ], request_trees

    def _request_trees(
        self, tree: PrefixTree, first_ids: Sequence[int], branches: Sequence[int], scored: Collection[int]
    ) -> list[RequestTree]:
        """Return the tree as one request tree, or split in halves until each part fits into the pool."""
        whole = make_request_tree(tree, first_ids, branches, scored)
        room = self.pool.num_blocks - 1
        if whole.blocks_needed() - 1 <= room:
            return [whole]
        if len(branches) == 1:
            raise ValueError(
                f"[engine] max_batch_tokens: expected >= {(whole.blocks_needed() - 1) * BLOCK} for a path of "
                f"{whole.forest.num_slots} tokens and its continuation, got {room * BLOCK}"
            )
        order, middle = depth_first(whole), len(branches) // 2
        halves = (order[:middle], order[middle:])
        return [part for half in halves for part in self._request_trees(tree, first_ids, half, scored)]

    def _completions(self, finished: Sequence[FinishedRequest]) -> list[Completion]:
        if not finished:
            return []  # batch_decode([]) is not empty
        texts = self.tokenizer.batch_decode([f.token_ids for f in finished], skip_special_tokens=True)
        return [
            Completion(token_ids=f.token_ids, logprobs=f.logprobs, text=text, finish_reason=f.reason)
            for f, text in zip(finished, texts, strict=True)
        ]

    @torch.inference_mode()
    def score(
        self,
        sequences: Sequence[Sequence[int]],
        temperature: float = 1.0,
        starts: Sequence[int] | None = None,
    ) -> list[Scores]:
        """Return log-prob, entropy and self-certainty of every token given those before it, in nats.

        A common prefix of sequences is computed once.

        Args:
            starts: tokens before starts[i] are not scored (0); None: all but the first are.
        """
        self._check_ready()
        self._limits.check_scoring(sequences, temperature, starts)
        with self._here():
            return score_sequences(self.decoder, sequences, temperature, starts, self._stats)

    @property
    def takes_partial_weights(self) -> bool:
        """True unless weights are missing."""
        return self._whole

    def load_weights(
        self, tensors: Iterable[tuple[str, Tensor]], version: int, partial: bool = False
    ) -> None:
        """Copy all weights into the model one by one, cast to its dtype.

        Args:
            partial: weights that are not given keep their values.
        Raises:
            ValueError: a name is unknown, comes twice or is missing, or a shape differs. After any error,
                also one raised by `tensors`, the weights are undefined, and the engine refuses to work until
                all have been loaded.
            RuntimeError: partial, and takes_partial_weights is False.
        """
        self._check_awake()
        if partial:
            self._check_ready()
        self._whole = False
        with self.decoder.plain_weights():
            copy_weights(self.decoder.model, tensors, partial)
        self._whole = True
        self.weights_version = version

    def weight_sums(self) -> dict[str, WeightSum]:
        """Return the checksums of the current weights; see `fastrl.engine.weight_sums`."""
        self._check_ready()
        with self.decoder.plain_weights():
            return weight_sums(named_weights(self.decoder.model))

    def sleep(self, level: int = 1) -> None:
        """Free the KV cache; move weights to host memory (level 1) or drop them (level 2)."""
        if level not in (1, 2):
            raise ValueError(f"[engine] level: expected 1 or 2, got {level}")
        self._asleep = True
        self._whole = self._whole and level == 1
        self.pool.drop_memory()
        self.decoder.drop_fused()
        if not self._whole:
            for parameter in self.decoder.model.parameters():
                # only the shape is kept; one made on a GPU would be copied to the host as a whole
                parameter.data = torch.empty(1, dtype=parameter.dtype).expand(parameter.shape)
        self.decoder.model.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        if not self._asleep:
            return
        if not self._whole:
            for parameter in self.decoder.model.parameters():
                parameter.data = torch.empty(parameter.shape, dtype=parameter.dtype, device=self._device)
        self.decoder.model.to(self._device)
        self.decoder.fuse()
        if self._whole:
            self.decoder.pack()
        self._asleep = False

    def stats(self) -> EngineStats:
        """Return a copy of the counters."""
        return replace(self._stats)

    def _here(self) -> AbstractContextManager[Any]:
        """Return a context in which the engine's GPU is current, for kernels and CUDA graphs."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _check_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("[engine] state: expected awake, got asleep; call wake() first")

    def _check_ready(self) -> None:
        self._check_awake()
        if not self._whole:
            raise RuntimeError(WEIGHTS_MISSING)
