"""The embedded engine: samples and scores with any Hugging Face decoder, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from fastrl.engine.protocol import HALF_LOADED, EngineStats, Place, Scores, Watcher, checksum
from fastrl.engine.tree.decoder import Decoder
from fastrl.engine.tree.kv_pool import BLOCK, Ints, KVPool
from fastrl.engine.tree.outputs import Finished
from fastrl.engine.tree.probe import probe
from fastrl.engine.tree.prompts import PromptCache
from fastrl.engine.tree.requests import Job, depth_first, make_job
from fastrl.engine.tree.scheduler import Scheduler, Watch
from fastrl.engine.tree.scoring import score_sequences
from fastrl.engine.tree.stopping import StopRule, Vocabulary
from fastrl.engine.tree.weights import copy_weights, named_weights
from fastrl.types import Branch, Completion, PrefixTree, SamplingParams


class TorchEngine:
    """`fastrl.engine.protocol.Engine` over a Hugging Face decoder. The model becomes the engine's own."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, max_batch_tokens: int = 65536,
        keep_prompts: bool = False,
    ) -> None:  # fmt: skip
        """A pool of KV cache for max_batch_tokens > 0 tokens; requests that find no room wait their turn.

        keep_prompts: prompts stay in the pool between calls, until other tokens need the room or the weights
            change. What follows a kept prompt may differ in its last bits from what follows a fresh one.

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
        # a tree, a tail and a kept prompt end in blocks of their own: what fits by tokens shall fit by blocks
        self._spare_blocks = 1 + keep_prompts
        self.pool = KVPool(max_batch_tokens + self._spare_blocks * BLOCK)
        self.prompts = PromptCache(self.pool, keep_prompts)
        self.weights_version = 0
        self._device = self.decoder.device
        self._asleep, self._whole = False, True
        self._stats = EngineStats()
        self._end_ids = _end_ids(model, tokenizer)

    @classmethod
    def from_pretrained(
        cls, path: str, *, dtype: torch.dtype, device: torch.device, max_batch_tokens: int = 65536,
        keep_prompts: bool = False, trust_remote_code: bool = False,
    ) -> TorchEngine:  # fmt: skip
        """The engine of a checkpoint folder or hub name, with its tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model = Decoder.load(path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return cls(model, tokenizer, max_batch_tokens=max_batch_tokens, keep_prompts=keep_prompts)

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

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, watch: Watcher | None = None
    ) -> list[list[list[Completion]]]:
        """[tree][branch][sample]; every distinct token path of a tree is prefilled once.

        prefill tokens = sum over trees of |distinct non-empty prefixes of prompt + branch|, less cached ones
        """
        return self._run(trees, sampling, watch, [()] * len(trees), 1.0)[0]

    def continue_and_score(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float = 1.0, watch: Watcher | None = None,
    ) -> tuple[list[list[list[Completion]]], list[dict[int, list[float]]]]:  # fmt: skip
        """continue_prefixes, and from the same prefill the log-probs (nats) of some branches' tokens.

        scored: branches of each tree. Returns: completions, and for each tree {branch: log-probs}.
        """
        completions, jobs = self._run(trees, sampling, watch, scored, temperature)
        found: list[dict[int, list[float]]] = [{} for _ in trees]
        for number, job in jobs:
            for branch in set(job.branches) & set(scored[number]):
                assert job.logprobs is not None, "every job has been prefilled"
                found[number][branch] = job.logprobs[job.branch_slots[branch]].tolist()
        return completions, found

    @torch.inference_mode()
    def _run(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, watch: Watcher | None,
        scored: Sequence[Collection[int]], temperature: float,
    ) -> tuple[list[list[list[Completion]]], list[tuple[int, Job]]]:  # fmt: skip
        """Completions, and the jobs that it took with the number of the tree of each."""
        self._check_ready()
        jobs: list[tuple[int, Job]] = []
        places: list[Place] = []
        for number, (tree, wanted) in enumerate(zip(trees, scored, strict=True)):
            self._check(tree)
            counts = [branch.num_samples for branch in tree.branches]
            first_rows = np.cumsum([len(places), *counts]).tolist()
            own = self._jobs(tree, first_rows, range(len(counts)), wanted) if counts else []
            jobs += [(number, job) for job in own]
            places += [(number, b, j) for b, count in enumerate(counts) for j in range(count)]
            self._stats.prompt_tokens_asked += sum(
                b.num_samples * (len(tree.prompt_ids) + len(b.token_ids)) for b in tree.branches
            )
        self._stats.requests += len(places)
        stop = StopRule(self._vocabulary, self._end_ids, sampling)
        scheduler = Scheduler(self.decoder, sampling, stop, self.pool, self.prompts, self._stats, temperature)
        told = None if watch is None else self._told(watch, places)
        with self._here():
            finished = sorted(scheduler.run([job for _, job in jobs], told), key=lambda f: f.row)
        self._stats.generated_tokens += sum(len(f.token_ids) for f in finished)
        self._stats.decode_tokens += sum(len(f.token_ids) - 1 for f in finished)
        completions = iter(self._completions(finished))
        return [
            [[next(completions) for _ in range(branch.num_samples)] for branch in tree.branches]
            for tree in trees
        ], jobs

    def _jobs(
        self, tree: PrefixTree, first_rows: Sequence[int], branches: Sequence[int], scored: Collection[int]
    ) -> list[Job]:
        """The tree as one job, or in halves where the pool can't hold it with its longest continuation."""
        job = make_job(tree, first_rows, branches, scored)
        room = self.pool.num_blocks - self._spare_blocks
        if job.blocks_needed() - 1 <= room:
            return [job]
        if len(branches) == 1:
            raise ValueError(
                f"[engine] max_batch_tokens: expected >= {(job.blocks_needed() - 1) * BLOCK} for a path of "
                f"{job.forest.num_slots} tokens and its continuation, got {room * BLOCK}"
            )
        order, half = depth_first(job), len(branches) // 2
        parts = (order[:half], order[half:])
        return [each for part in parts for each in self._jobs(tree, first_rows, part, scored)]

    def _completions(self, finished: Sequence[Finished]) -> list[Completion]:
        if not finished:
            return []  # decoders make a text of nothing
        texts = self.tokenizer.batch_decode([f.token_ids for f in finished], skip_special_tokens=True)
        return [
            Completion(token_ids=f.token_ids, logprobs=f.logprobs, text=text, finish_reason=f.reason)
            for f, text in zip(finished, texts, strict=True)
        ]

    def _told(self, watch: Watcher, places: Sequence[Place]) -> Watch:
        """The scheduler's rows as the caller's (tree, branch, sample)."""
        rows = {place: row for row, place in enumerate(places)}

        def told(finished: Sequence[Finished]) -> Iterator[int]:
            ended = zip([places[f.row] for f in finished], self._completions(finished), strict=True)
            return (rows[place] for place in watch(list(ended)))

        return told

    @torch.inference_mode()
    def score(
        self,
        sequences: Sequence[Sequence[int]],
        temperature: float = 1.0,
        starts: Sequence[int] | None = None,
    ) -> list[Scores]:
        """Log-probability, entropy and self-certainty (nats) of every token given those before it.

        starts: per sequence, tokens before this one are not scored (0); None: 1 everywhere. What sequences
        share from their first token on is computed once.
        """
        self._check_ready()
        if not temperature > 0:
            raise ValueError(f"[engine] temperature: expected > 0, got {temperature}")
        if starts is not None and len(starts) != len(sequences):
            raise ValueError(f"[engine] starts: expected {len(sequences)}, one a sequence, got {len(starts)}")
        longest = max((len(sequence) for sequence in sequences), default=0)
        if longest > self.max_model_len:
            raise ValueError(
                f"[engine] sequences: expected <= max_model_len {self.max_model_len}, got {longest}"
            )
        for sequence in sequences:
            self._check_ids("sequences", sequence)
        with self._here():
            return score_sequences(self.decoder, sequences, temperature, starts, self._stats)

    @property
    def takes_partial_weights(self) -> bool:
        """Until weights are dropped."""
        return self._whole

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]], version: int, partial: bool = False) -> str:
        """Copy every weight in as it comes, cast to the engine's type; returns the checksum of what it then
        holds.

        partial: weights that don't arrive stay as they are.

        Raises:
            ValueError: a name is unknown, comes twice or is missing, or a shape differs. After it, or after
                whatever `tensors` raises, the weights are undefined: the engine refuses to work until every
                one has been loaded.
            RuntimeError: partial, and takes_partial_weights is false.
        """
        self._check_awake()
        if partial:
            self._check_ready()
        self.prompts.clear()
        self._whole = False
        copy_weights(self.decoder.model, tensors, partial)
        self.decoder.refresh()
        self._whole = True
        self.weights_version = version
        return checksum(named_weights(self.decoder.model))

    def sleep(self, level: int = 1) -> None:
        """The cache's memory is given back; weights move to host memory (level 1) or are dropped (2)."""
        if level not in (1, 2):
            raise ValueError(f"[engine] level: expected 1 or 2, got {level}")
        self._asleep = True
        self._whole = self._whole and level == 1
        self.prompts.clear()
        self.pool.drop_memory()
        self.decoder.leave()
        if not self._whole:
            for parameter in self.decoder.model.parameters():  # the shape alone is kept
                parameter.data = parameter.new_empty(1).expand(parameter.shape)
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
        self.decoder.place()
        self._asleep = False

    def stats(self) -> EngineStats:
        """A copy of the counters."""
        return replace(self._stats)

    def _here(self) -> AbstractContextManager[Any]:
        """Kernels and graphs of our own go to the thread's current GPU, so it must be the engine's."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _check_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("[engine] state: expected awake, got asleep; call wake() first")

    def _check_ready(self) -> None:
        self._check_awake()
        if not self._whole:
            raise RuntimeError(HALF_LOADED)

    def _check_ids(self, name: str, ids: Sequence[int] | Ints) -> None:
        array, size = np.asarray(ids, dtype=np.int64), self.decoder.vocab_size
        outside = array[(array < 0) | (array >= size)]
        if len(outside):
            raise ValueError(f"[engine] {name}: expected token ids in [0, {size}), got {outside[0]}")

    def _check(self, tree: PrefixTree) -> None:
        self._check_ids("prompt", tree.prompt_ids)
        for branch in tree.branches:
            self._check_ids("prompt", branch.token_ids)
            if branch.num_samples < 0:
                raise ValueError(f"[engine] num_samples: expected >= 0, got {branch.num_samples}")
            if branch.max_new_tokens < 1:
                raise ValueError(f"[engine] max_new_tokens: expected >= 1, got {branch.max_new_tokens}")
            prefix = len(tree.prompt_ids) + len(branch.token_ids)
            if prefix + branch.max_new_tokens * (branch.num_samples > 0) > self.max_model_len:
                raise ValueError(
                    f"[engine] prompt: expected prompt + max_new_tokens <= max_model_len "
                    f"{self.max_model_len}, got {prefix} + {branch.max_new_tokens}"
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
