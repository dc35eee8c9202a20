"""The receiver: a frozen model that continues truncated rollouts of the policy; its answers are graded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastrl.config import TransferConfig
from fastrl.data import as_messages, gold_text, render_prompt
from fastrl.data.prompts import encode_inside
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader, Verdict
from fastrl.rewards.batch import group_indexes
from fastrl.rewards.cuts import Cut, Cutter
from fastrl.runtime.seeding import seed_of
from fastrl.types import Branch, Completion, FinishReason, PrefixTree, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """One continuation of a cut by the receiver."""

    text: str
    finish_reason: FinishReason
    verdict: Verdict | None
    """Verdict on prefix + text; None if it did not finish, which counts as wrong."""

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


class CutIndex:
    """Map from rollouts and cuts to prefix trees and branches; consecutive equal prompts share a tree."""

    def __init__(self, prompts: Sequence[Any], cuts: Sequence[Sequence[Cut]]) -> None:
        self.trees = group_indexes(prompts)
        """[rollout] index of its tree."""
        self.branches: list[list[tuple[int, int]]] = []
        """[rollout][cut] (tree, branch)."""
        sizes = [0] * (max(self.trees, default=-1) + 1)
        for tree, own_cuts in zip(self.trees, cuts, strict=True):
            self.branches.append([(tree, sizes[tree] + k) for k in range(len(own_cuts))])
            sizes[tree] += len(own_cuts)


class Receiver:
    """A frozen model that continues cuts of the policy's rollouts, and grading of its answers.

    The receiver gets the question in its own chat template and the prefix as the beginning of its answer, but
    never the gold answer. A call makes one request to the engine, with one prefix tree per question.

    Args:
        engine: engine of the frozen model.
        policy_tokenizer: tokenizer of the model whose rollouts are cut.
        grader: compares prefix + continuation with the gold answer.
        config: options; receiver, num_cuts and tau_shared_in_group are not read.
        max_new_tokens: longest rollout; a continuation may have max_new_tokens - position + slack_tokens.
        stop: stop strings in mode "sample", in addition to the tokenizer's end token.
    """

    def __init__(
        self,
        engine: Engine,
        policy_tokenizer: Any,
        grader: AnswerGrader,
        config: TransferConfig,
        max_new_tokens: int,
        stop: tuple[str, ...] = (),
    ) -> None:
        self.engine = engine
        self.grader = grader
        self.config = config
        self.max_new_tokens = max_new_tokens
        self.stop = stop
        self.cutter = Cutter(policy_tokenizer, engine.tokenizer, strip_answer=config.strip_answer)
        self.forcing_ids = encode_inside(engine.tokenizer, config.forcing_text)

    def check_capacity(self, prompts: Sequence[Any]) -> None:
        """Raise ValueError if a prompt, a rollout and its continuation exceed the receiver's context."""
        longest = max((len(self._prompt_ids(prompt)) for prompt in prompts), default=0)
        forced = len(self.forcing_ids) + self.config.answer_tokens
        after = self.config.slack_tokens if self.config.mode == "sample" else forced
        self._check_room(longest, 0, self.max_new_tokens + after)

    def continue_cuts(
        self,
        prompts: Sequence[Any],
        cuts: Sequence[Sequence[Cut]],
        gold: Sequence[Any],
        *seed: int | str,
        ids: Sequence[int] | None = None,
        rollouts: Sequence[Sequence[int]] = (),
        score_temperature: float | None = None,
    ) -> tuple[list[list[list[Continuation]]], list[list[float]]]:
        """Continue every cut and grade the results; in mode "force" the forcing text follows the cut.

        Args:
            prompts: of each rollout; equal prompts must be consecutive.
            seed, ids: the seed of cut k of rollout i is (seed, ids[i], k); ids None: the rollouts' indices.
            rollouts: whole rollouts in the policy's tokens. If the receiver has the same vocabulary, its
                prefill reads them to their end, and a continuation costs nothing while it agrees with one.
            score_temperature: score the rollouts at this temperature in the same prefill; the vocabularies
                must be equal.
        Returns: continuations [rollout][cut][sample], and log-probs [rollout][token] if they are scored.
        """
        trees = self._trees(prompts, cuts, seed, range(len(prompts)) if ids is None else ids)
        stop = (self.config.forcing_end,) if self.config.mode == "force" else self.stop
        sampling = SamplingParams(temperature=self.config.temperature, top_p=self.config.top_p, stop=stop)
        index = CutIndex(prompts, cuts)
        reads = self.cutter.same_vocabulary and (
            self.config.mode == "sample" or score_temperature is not None
        )
        found, logprobs = self._generate(
            trees, sampling, index.trees, rollouts if reads else (), score_temperature
        )
        completions = [[found[tree][branch] for tree, branch in own] for own in index.branches]
        verdicts = iter(self._grade(cuts, completions, gold))
        continuations = [
            [
                [
                    Continuation(
                        text=self._text_after(self._prefix_ids(cut), completion),
                        finish_reason=completion.finish_reason,
                        verdict=next(verdicts),
                    )
                    for completion in samples
                ]
                for cut, samples in zip(own_cuts, own, strict=True)
            ]
            for own_cuts, own in zip(cuts, completions, strict=True)
        ]
        return continuations, logprobs

    def _generate(
        self, trees: list[PrefixTree], sampling: SamplingParams, owners: Sequence[int],
        rollouts: Sequence[Sequence[int]], score_temperature: float | None,
    ) -> tuple[list[list[list[Completion]]], list[list[float]]]:  # fmt: skip
        """Return completions [tree][branch][sample], and log-probs of the rollouts, if they are scored."""
        # rollouts are branches after those of the cuts, which keep their indices
        branches = [list(tree.branches) for tree in trees]
        numbers = []
        for tree, token_ids in zip(owners, rollouts, strict=False):
            numbers.append((tree, len(branches[tree])))
            branches[tree].append(Branch(token_ids=token_ids, num_samples=0, max_new_tokens=1, seed=0))
        trees = [replace(tree, branches=below) for tree, below in zip(trees, branches, strict=True)]
        if score_temperature is None:
            return self.engine.continue_prefixes(trees, sampling), []
        scored = [[b for t, b in numbers if t == tree] for tree in range(len(trees))]
        found, logprobs = self.engine.continue_and_score(trees, sampling, scored, score_temperature)
        return found, [logprobs[t][b] for t, b in numbers]

    def answer_logprobs(
        self, prompts: Sequence[Any], cuts: Sequence[Sequence[Cut]], gold: Sequence[Any]
    ) -> list[list[float]]:
        """Return log-probs [rollout][cut] (nats) of gold answer + forcing_end after cut + forcing_text.

        One scoring pass, in which every distinct prefix is computed once; nothing is sampled.
        """
        sequences, starts = [], []
        for prompt, own_cuts, answer in zip(prompts, cuts, gold, strict=True):
            prompt_ids = self._prompt_ids(prompt)
            answer_ids = encode_inside(self.engine.tokenizer, gold_text(answer) + self.config.forcing_end)
            for cut in own_cuts:
                prefix = [*prompt_ids, *self._prefix_ids(cut)]
                self._check_room(len(prompt_ids), len(prefix) - len(prompt_ids), len(answer_ids))
                sequences.append([*prefix, *answer_ids])
                starts.append(len(prefix))
        scores = iter(zip(self.engine.score(sequences, starts=starts), starts, strict=True))
        return [
            [math.fsum(s.logprobs[start:]) for _, (s, start) in zip(own_cuts, scores, strict=False)]
            for own_cuts in cuts
        ]

    def _trees(
        self,
        prompts: Sequence[Any],
        cuts: Sequence[Sequence[Cut]],
        seed: tuple[int | str, ...],
        ids: Sequence[int],
    ) -> list[PrefixTree]:
        branches: list[list[Branch]] = []
        prompt_ids: list[list[int]] = []
        for rollout, group in enumerate(group_indexes(prompts)):
            if group == len(branches):
                branches.append([])
                prompt_ids.append(self._prompt_ids(prompts[rollout]))
            for k, cut in enumerate(cuts[rollout]):
                branch = Branch(
                    token_ids=self._prefix_ids(cut),
                    num_samples=self.config.num_continuations,
                    max_new_tokens=self._max_new_tokens(cut),
                    seed=seed_of(*seed, ids[rollout], k),
                )
                self._check_room(len(prompt_ids[-1]), len(branch.token_ids), branch.max_new_tokens)
                branches[-1].append(branch)
        return [
            PrefixTree(prompt_ids=ids, branches=below)
            for ids, below in zip(prompt_ids, branches, strict=True)
        ]

    def _max_new_tokens(self, cut: Cut) -> int:
        if self.config.mode == "force":
            return self.config.answer_tokens
        return max(1, self.max_new_tokens - cut.position + self.config.slack_tokens)

    def _prefix_ids(self, cut: Cut) -> list[int]:
        """Return the tokens that begin the receiver's answer."""
        return cut.receiver_ids if self.config.mode == "sample" else [*cut.receiver_ids, *self.forcing_ids]

    def _grade(
        self,
        cuts: Sequence[Sequence[Cut]],
        completions: Sequence[Sequence[Sequence[Completion]]],
        gold: Sequence[Any],
    ) -> list[Verdict | None]:
        """Return verdicts in the order of [rollout][cut][sample]; None for unfinished completions."""
        forced = "" if self.config.mode == "sample" else self.config.forcing_text
        pairs = [
            (cut.text + forced + self._text_after(self._prefix_ids(cut), completion), gold_text(answer))
            if completion.finish_reason == "stop"
            else None
            for own_cuts, own, answer in zip(cuts, completions, gold, strict=True)
            for cut, samples in zip(own_cuts, own, strict=True)
            for completion in samples
        ]
        graded = iter(self.grader.grade([pair for pair in pairs if pair is not None]))
        return [None if pair is None else next(graded) for pair in pairs]

    def _text_after(self, prefix_ids: Sequence[int], completion: Completion) -> str:
        # decoded with its prefix, since by itself it could lose a space or begin inside a character
        prefix = self._decode(prefix_ids)
        return self._decode([*prefix_ids, *completion.token_ids])[len(prefix) :]

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.engine.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _prompt_ids(self, prompt: Any) -> list[int]:
        return render_prompt(self.engine.tokenizer, as_messages(prompt))

    def _check_room(self, prompt: int, prefix: int, new: int) -> None:
        if prompt + prefix + new > self.engine.max_model_len:
            raise ValueError(
                f"[transfer] receiver: expected room for prompt {prompt} + prefix {prefix} + new {new}, got "
                f"max_model_len {self.engine.max_model_len}; lower rollout.max_new_tokens or "
                "transfer.slack_tokens, or take a receiver with a longer context"
            )
