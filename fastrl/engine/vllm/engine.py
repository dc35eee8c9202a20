"""The vLLM engine, with vLLM's kernels and its automatic prefix cache."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from fastrl.engine.protocol import WEIGHTS_MISSING, EngineStats, Scores
from fastrl.engine.requests import RequestLimits, end_token_ids, prompt_trees, with_special_stops
from fastrl.engine.sampling import request_keys
from fastrl.engine.vllm.adapter import Vllm, VllmOutput, VllmRequest, now
from fastrl.engine.vllm.buckets import buckets
from fastrl.engine.vllm.weights import WeightLedger
from fastrl.engine.weight_sums import WeightSum, weight_sums
from fastrl.types import Completion, FinishReason, PrefixTree, SamplingParams

_SEED_MASK = (1 << 63) - 1
_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.01, 2.0
"""vLLM clamps or refuses temperatures outside this range."""
_SCORE_ELEMENTS = 1 << 25
"""Logits scored at once; bounds the workspace to a few times 128 MB."""
_SAME_LOGPROB = 1e-2
"""Tolerance in nats between log-probs of the recorded logits and vLLM's own."""
REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class VllmEngine:
    """`fastrl.engine.protocol.Engine` of a vLLM engine in this process, on a GPU or its CPU build.

    Completions, log-probs and counters mean the same as TorchEngine's; random numbers are vLLM's.
    Differences: stop strings are searched in text decoded as a continuation of the prompt. Prefixes are
    shared in whole blocks of 16 tokens (32 on a CPU), so prefill_tokens exceeds a tree's distinct tokens.
    prefill_ms lasts until every completion of a call has its first token. Recomputation after a preemption
    (max_batch_tokens too small) is not counted.
    """

    def __init__(
        self, path: str, *, dtype: torch.dtype, device: torch.device, max_batch_tokens: int = 65536,
        enforce_eager: bool = False, trust_remote_code: bool = False,
    ) -> None:  # fmt: skip
        """Load a checkpoint folder or hub name, with a KV cache of max_batch_tokens > 0 tokens.

        Args:
            enforce_eager: no CUDA graphs: starts faster, decodes slower. Always so on a CPU.
        Raises:
            ValueError: vLLM is not installed or can't run this model.
        """
        if max_batch_tokens < 1:
            raise ValueError(f"[engine] max_batch_tokens: expected > 0, got {max_batch_tokens}")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        self._config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        text: Any = self._config.get_text_config()
        self.max_model_len = min(getattr(text, "max_position_embeddings", max_batch_tokens), max_batch_tokens)
        self.vocab_size = int(text.vocab_size)
        self._limits = RequestLimits(self.vocab_size, self.max_model_len)
        self.weights_version = 0
        self._dtype, self._trust = dtype, trust_remote_code
        self._end_ids = end_token_ids(self.tokenizer, _generation_config(path, self._config))
        self._ledger: WeightLedger | None = None
        self._asleep = False
        self._whole = True
        self._given_all = False  # load_weights has received all weights at least once
        self._stats = EngineStats()
        self.vllm = Vllm(
            path, dtype=dtype, device=device, max_model_len=self.max_model_len, cache_tokens=max_batch_tokens,
            enforce_eager=enforce_eager, trust_remote_code=trust_remote_code,
        )  # fmt: skip

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams, *, seeds: Sequence[int], n: int = 1
    ) -> list[list[Completion]]:
        """Return n completions of each prompt; the seed of sample j of prompt i is (seeds[i], j)."""
        trees = prompt_trees(prompts, sampling, seeds, n)
        return [branches[0] for branches in self.continue_prefixes(trees, sampling)]

    def continue_prefixes(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams
    ) -> list[list[list[Completion]]]:
        """Return completions [tree][branch][sample].

        All requests are one batch in depth-first order, so that the prefix cache still has a prefix's blocks
        for the next request. The cache is emptied first.
        """
        self._check_ready()
        self._check_temperature(sampling)
        self._limits.check_stops(sampling)
        sampling = with_special_stops(self.tokenizer, sampling)
        queue: list[tuple[bytes, tuple[int, int, int], VllmRequest]] = []
        for number, tree in enumerate(trees):
            self._limits.check_tree(tree)
            for b, branch in enumerate(tree.branches):
                prefix = [*map(int, tree.prompt_ids), *map(int, branch.token_ids)]
                order = np.asarray(prefix, dtype=">u4").tobytes()  # sorts like the token ids
                samples = range(branch.num_samples)
                for j, key in zip(samples, request_keys([branch.seed] * len(samples), samples), strict=True):
                    request = VllmRequest(prefix, key & _SEED_MASK, branch.max_new_tokens)
                    queue.append((order, (number, b, j), request))
        queue.sort(key=lambda entry: entry[:2])
        self.vllm.forget()
        requests = [request for *_, request in queue]
        began = now()
        self._stats.requests += len(requests)
        outputs = self.vllm.sample(requests, sampling, self._end_ids, self._ended)
        self._count(began, requests, outputs)
        indexes = [index for _, index, _ in queue]
        found = dict(zip(indexes, self._completions(outputs), strict=True))
        return [
            [
                [found[number, b, j] for j in range(branch.num_samples)]
                for b, branch in enumerate(tree.branches)
            ]
            for number, tree in enumerate(trees)
        ]

    def continue_and_score(
        self, trees: Sequence[PrefixTree], sampling: SamplingParams, scored: Sequence[Collection[int]],
        temperature: float = 1.0,
    ) -> tuple[list[list[list[Completion]]], list[dict[int, list[float]]]]:  # fmt: skip
        """Return continue_prefixes' completions, and log-probs of some branches from separate passes.

        Args:
            scored: branches to score, per tree.
        Returns: completions, and {branch: log-probs in nats} per tree.
        """
        completions = self.continue_prefixes(trees, sampling)
        found: list[dict[int, list[float]]] = []
        for tree, branches in zip(trees, scored, strict=True):
            start = len(tree.prompt_ids)
            sequences = [[*tree.prompt_ids, *tree.branches[b].token_ids] for b in branches]
            scores = self.score(sequences, temperature, [start] * len(sequences))
            found.append({b: score.logprobs[start:] for b, score in zip(branches, scores, strict=True)})
        return completions, found

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        temperature: float = 1.0,
        starts: Sequence[int] | None = None,
    ) -> list[Scores]:
        """Return log-prob, entropy and self-certainty of every token given those before it, in nats.

        vLLM computes whole sequences one by one, without its prefix cache.

        Args:
            starts: tokens before starts[i] are not scored (0); None: all but the first are.
        """
        self._check_ready()
        self._limits.check_scoring(sequences, temperature, starts)
        return [
            self._score([*map(int, sequence)], temperature, 1 if starts is None else starts[i])
            for i, sequence in enumerate(sequences)
        ]

    @property
    def takes_partial_weights(self) -> bool:
        """True after a load of all weights, until they are dropped."""
        return self._whole and self._given_all

    def load_weights(
        self, tensors: Iterable[tuple[str, Tensor]], version: int, partial: bool = False
    ) -> None:
        """Copy all weights into vLLM, cast to the engine's dtype.

        Tensors are loaded in buckets; each bucket is read back from vLLM's kernels, compared and released.

        Args:
            partial: weights that are not given keep their values.
        Raises:
            ValueError: a name is unknown, comes twice or is missing, or a shape differs.
            RuntimeError: vLLM's weights differ from those sent; or partial without takes_partial_weights.
            NotImplementedError: a weight can't be found in vLLM's model.
                If any error, also one raised by `tensors`, comes after the first bucket, the weights are
                undefined, and the engine refuses to work until all have been loaded.
        """
        self._check_awake()
        if partial and not self.takes_partial_weights:
            raise RuntimeError("[load_weights] partial: expected a load of all weights before, got none")
        ledger = self._weight_ledger()
        for bucket in buckets(ledger, tensors, partial):
            self._whole = False
            self.vllm.reload(bucket)
            ledger.prove(bucket)
        self._whole = self._given_all = True
        self.vllm.wake_cache()
        self.weights_version = version

    def weight_sums(self) -> dict[str, WeightSum]:
        """Return the checksums of the weights read back from vLLM; see `fastrl.engine.weight_sums`."""
        self._check_ready()
        ledger = self._weight_ledger()
        return weight_sums((name, ledger.held_now(name).to(self._dtype)) for name in ledger.names)

    def _weight_ledger(self) -> WeightLedger:
        if self._ledger is None:
            with torch.device("meta"):
                from_config: Any = AutoModelForCausalLM.from_config
                checkpoint = from_config(
                    self._config, attn_implementation="eager", trust_remote_code=self._trust
                )
            self._ledger = WeightLedger(checkpoint, self.vllm.model, self._dtype)
        return self._ledger

    def sleep(self, level: int = 1) -> None:
        """Sleep at vLLM's level 1 or 2; no effect if asleep. The CPU build only drops its prefix cache."""
        if level not in (1, 2):
            raise ValueError(f"[engine] level: expected 1 or 2, got {level}")
        if not self._asleep:
            self.vllm.sleep(level)
        self._whole = self._whole and level == 1
        self._asleep = True

    def wake(self) -> None:
        """Undo sleep; after level 2 the KV cache is allocated in load_weights, with the weights."""
        if self._asleep:
            self.vllm.wake(with_cache=self._whole)
        self._asleep = False

    def stats(self) -> EngineStats:
        """Return a copy of the counters."""
        return replace(self._stats)

    def _completions(self, outputs: Sequence[VllmOutput]) -> list[Completion]:
        if not outputs:
            return []
        for output in outputs:
            if output.reason not in REASONS:
                raise RuntimeError(f"[engine] vllm: expected a completion to end, got {output.reason!r}")
        if any(np.isnan(output.logprobs).any() for output in outputs):
            raise FloatingPointError("[engine] logits: expected numbers, got nan; are the weights finite?")
        texts = self.tokenizer.batch_decode([o.token_ids for o in outputs], skip_special_tokens=True)
        return [
            Completion(token_ids=o.token_ids, logprobs=o.logprobs, text=text, finish_reason=REASONS[o.reason])
            for o, text in zip(outputs, texts, strict=True)
        ]

    def _ended(self, output: VllmOutput) -> None:
        """Count a completion while others still run."""
        self._stats.finished += 1
        self._stats.generated_tokens += len(output.token_ids)

    def _count(self, began: float, requests: Sequence[VllmRequest], outputs: Sequence[VllmOutput]) -> None:
        stats, ended = self._stats, now()
        first = max([began, *(output.first_token_s for output in outputs)])
        stats.prefill_ms += (first - began) * 1e3
        stats.decode_ms += (ended - first) * 1e3
        stats.prompt_tokens_asked += sum(len(request.prompt_ids) for request in requests)
        for request, output in zip(requests, outputs, strict=True):
            prompt, generated = len(request.prompt_ids), len(output.token_ids)
            stats.cached_tokens += output.cached_tokens
            stats.prefill_tokens += prompt - output.cached_tokens
            stats.decode_tokens += generated - 1
            reads = (generated - 1) * prompt + generated * (generated - 1) // 2
            stats.kv_tokens_read += reads  # every request reads its own context
            stats.kv_tokens_asked += reads

    def _score(self, ids: list[int], temperature: float, start: int) -> Scores:
        """Score one sequence: the last token with the logits that vLLM samples from, the others with its
        prompt logits."""
        scores = Scores([0.0] * len(ids), [0.0] * len(ids), [0.0] * len(ids))
        first = max(start, 1)
        if first >= len(ids):
            return scores

        def measure(logits: Tensor, position: int) -> Tensor:
            targets = ids[position + 1 : position + 1 + len(logits)]
            return _token_scores(logits, torch.tensor(targets, device=logits.device), temperature)

        measured, own = self.vllm.measure_prompt(ids[:-1], measure)
        self._stats.scored_tokens += len(ids) - 1
        values = measured.cpu().numpy()
        error = np.abs(values[: len(own), 0] - np.asarray(own))
        if len(values) != len(ids) - 1 or len(own) != len(ids) - 2 or (error > _SAME_LOGPROB).any():
            raise RuntimeError(
                f"[engine] score: expected vLLM's own log-probs of {len(ids) - 2} tokens, got {len(values)} "
                f"rows of logits whose log-probs differ by up to {error.max(initial=0):.3g}"
            )
        for name, column in zip(("logprobs", "entropy", "self_certainty"), values[:, 1:].T, strict=True):
            getattr(scores, name)[first:] = column[first - 1 :].tolist()
        return scores

    def _check_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("[engine] state: expected awake, got asleep; call wake() first")

    def _check_ready(self) -> None:
        self._check_awake()
        if not self._whole:
            raise RuntimeError(WEIGHTS_MISSING)

    def _check_temperature(self, sampling: SamplingParams) -> None:
        if sampling.temperature and not _LOWEST_TEMPERATURE <= sampling.temperature <= _HIGHEST_TEMPERATURE:
            raise ValueError(
                f"[sampling] temperature: expected 0 or a number in [{_LOWEST_TEMPERATURE}, "
                f"{_HIGHEST_TEMPERATURE}] if the engine is vllm, got {sampling.temperature}"
            )


def _token_scores(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return [n, 4] fp32 for logits [n, V]: the targets' log-prob at temperature 1, and at `temperature`
    their log-prob, entropy and self-certainty."""
    parts = []
    step = max(1, _SCORE_ELEMENTS // logits.shape[-1])
    for rows, ids in zip(torch.split(logits, step), torch.split(targets, step), strict=True):
        plain = rows.float().log_softmax(-1)
        logp = plain if temperature == 1 else (rows.float() / temperature).log_softmax(-1)
        columns = [
            plain.gather(-1, ids[:, None])[:, 0],
            logp.gather(-1, ids[:, None])[:, 0],
            -(logp.exp() * logp).sum(-1),
            -logp.mean(-1) - np.log(logits.shape[-1]),
        ]
        parts.append(torch.stack(columns, dim=1))
    return torch.cat(parts)


def _generation_config(path: str, config: Any) -> Any:
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:  # the checkpoint has none
        return GenerationConfig.from_model_config(config)
