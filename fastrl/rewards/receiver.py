"""A frozen model that continues what another one began: the measuring instrument of the transfer reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastrl.config import TransferConfig
from fastrl.data import as_messages, gold_text, render_prompt
from fastrl.data.prompts import encode_inside
from fastrl.engine.protocol import Engine, Place, Watcher
from fastrl.grading import AnswerGrader, Verdict
from fastrl.rewards.batch import group_indexes, group_numbers
from fastrl.rewards.cuts import Cut, Cutter
from fastrl.rewards.early_stop import GroupOrder
from fastrl.runtime.seeding import seed_of
from fastrl.types import Branch, Completion, FinishReason, PrefixTree, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What the receiver wrote after a cut."""

    text: str
    finish_reason: FinishReason
    verdict: Verdict | None
    """Of prefix + text; None for one that did not finish, which counts as wrong."""

    @property
    def correct(self) -> bool:
        return self.verdict is Verdict.CORRECT


class Asked:
    """Which (tree, branch) each cut of each row is: rows with equal prompts share a tree, row after row."""

    def __init__(self, prompts: Sequence[Any], cuts: Sequence[Sequence[Cut]]) -> None:
        self.trees = group_indexes(prompts)
        self.places: list[list[tuple[int, int]]] = []
        self._rows: dict[tuple[int, int], tuple[int, int]] = {}
        taken = [0] * (max(self.trees, default=-1) + 1)
        for row, (tree, row_cuts) in enumerate(zip(self.trees, cuts, strict=True)):
            own = [(tree, taken[tree] + k) for k in range(len(row_cuts))]
            taken[tree] += len(own)
            self.places.append(own)
            self._rows.update({place: (row, k) for k, place in enumerate(own)})

    def row_and_cut(self, place: Place) -> tuple[int, int]:
        return self._rows[place[:2]]

    def row_of(self, place: Place) -> int:
        return self.row_and_cut(place)[0]


class Receiver:
    """Continues cuts of the policy's rollouts and grades what comes out.

    The receiver gets the question in its own chat template and the kept text as the beginning of its answer,
    never the gold answer. All continuations of a call are one request to its engine, all cuts of one question
    one prefix tree.

    Args:
        engine: the frozen model.
        policy_tokenizer: of the model whose rollouts are cut.
        grader: compares prefix + continuation with the gold answer.
        config: all but the receiver itself, num_cuts and tau_shared_in_group are used.
        max_new_tokens: longest rollout; a continuation may have max_new_tokens - position + slack_tokens.
        stop: strings that end a continuation in mode "sample", beside the tokenizer's end token.
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
        """Raises ValueError where the receiver could not hold a rollout and its continuation."""
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
        group_ids: Sequence[int] | None = None,
        whole: Sequence[Sequence[int]] = (),
        temperature: float = 1.0,
    ) -> tuple[list[list[list[Continuation]]], list[list[float]]]:
        """[row][cut][sample]; cut k of row i draws from (seed, ids[i], k), ids being the rows' numbers where
        none are given. Equal prompts stand together; they are one group where group_ids say nothing else.
        whole: rollouts in the receiver's tokens, whose log-probs at `temperature` [row][token] come out of
        the same prefill.

        In mode "force" the forcing text comes between cut and continuation. With early_stop, continuations
        that can't change the order of their group's rewards end as "cancelled".
        """
        trees = self._trees(prompts, cuts, seed, range(len(prompts)) if ids is None else ids)
        stop = (self.config.forcing_end,) if self.config.mode == "force" else self.stop
        sampling = SamplingParams(temperature=self.config.temperature, top_p=self.config.top_p, stop=stop)
        asked = Asked(prompts, cuts)
        verdicts: dict[Place, Verdict | None] = {}

        def grade(ended: Sequence[tuple[Place, Completion]]) -> None:
            texts = [self._graded_text(cuts, asked, place, completion) for place, completion in ended]
            answers = [gold_text(gold[asked.row_of(place)]) for place, _ in ended]
            pairs = [
                (text, answer) if completion.finish_reason == "stop" else None
                for text, answer, (_, completion) in zip(texts, answers, ended, strict=True)
            ]
            verdicts.update(zip([place for place, _ in ended], self._grade(pairs), strict=True))

        groups = group_numbers(prompts, group_ids)
        watch = self._watcher(asked, groups, grade, verdicts) if self.config.early_stop else None
        found, logprobs = self._ask(trees, sampling, watch, asked.trees, whole, temperature)
        everything = [
            ((t, b, j), completion)
            for t, branches in enumerate(found)
            for b, samples in enumerate(branches)
            for j, completion in enumerate(samples)
        ]
        grade([(place, completion) for place, completion in everything if place not in verdicts])
        continuations: list[list[list[Continuation]]] = [[[] for _ in row_cuts] for row_cuts in cuts]
        for place, completion in everything:
            row, k = asked.row_and_cut(place)
            text = self._text_after(self._prefix_ids(cuts[row][k]), completion)
            continuations[row][k].append(
                Continuation(text=text, finish_reason=completion.finish_reason, verdict=verdicts[place])
            )
        return continuations, logprobs

    def _ask(
        self, trees: list[PrefixTree], sampling: SamplingParams, watch: Watcher | None, owners: Sequence[int],
        whole: Sequence[Sequence[int]], temperature: float,
    ) -> tuple[list[list[list[Completion]]], list[list[float]]]:  # fmt: skip
        if not whole:
            return self.engine.continue_prefixes(trees, sampling, watch), []
        # after the cuts' branches, so that these keep their places
        branches = [list(tree.branches) for tree in trees]
        places = []
        for tree, token_ids in zip(owners, whole, strict=True):
            places.append((tree, len(branches[tree])))
            branches[tree].append(Branch(token_ids=token_ids, num_samples=0, max_new_tokens=1, seed=0))
        trees = [replace(each, branches=below) for each, below in zip(trees, branches, strict=True)]
        scored = [[b for t, b in places if t == tree] for tree in range(len(trees))]
        found, logprobs = self.engine.continue_and_score(trees, sampling, scored, temperature, watch)
        return found, [logprobs[t][b] for t, b in places]

    def _watcher(
        self,
        asked: Asked,
        groups: Sequence[int],
        grade: Callable[[Sequence[tuple[Place, Completion]]], None],
        verdicts: dict[Place, Verdict | None],
    ) -> Watcher:
        """Grades what ends while the rest goes on, and names what need not."""
        order = GroupOrder(groups, [len(own) * self.config.num_continuations for own in asked.places])

        def watch(ended: Sequence[tuple[Place, Completion]]) -> list[Place]:
            grade(ended)
            rows = [asked.row_of(place) for place, _ in ended]
            for row, (place, _) in zip(rows, ended, strict=True):
                order.tell(row, verdicts[place] is Verdict.CORRECT)
            samples = range(self.config.num_continuations)
            return [
                (t, b, j) for row in order.newly_settled(rows) for t, b in asked.places[row] for j in samples
            ]

        return watch

    def answer_logprobs(
        self, prompts: Sequence[Any], cuts: Sequence[Sequence[Cut]], gold: Sequence[Any]
    ) -> list[list[float]]:
        """[row][cut] log-prob (nats) of the gold answer and the forcing end after cut and forcing text.

        Nothing is sampled: one scoring pass, in which every distinct prefix is computed once.
        """
        sequences, starts = [], []
        for prompt, row_cuts, answer in zip(prompts, cuts, gold, strict=True):
            prompt_ids = self._prompt_ids(prompt)
            told = encode_inside(self.engine.tokenizer, gold_text(answer) + self.config.forcing_end)
            for cut in row_cuts:
                prefix = [*prompt_ids, *self._prefix_ids(cut)]
                self._check_room(len(prompt_ids), len(prefix) - len(prompt_ids), len(told))
                sequences.append([*prefix, *told])
                starts.append(len(prefix))
        scores = iter(zip(self.engine.score(sequences, starts=starts), starts, strict=True))
        return [
            [math.fsum(s.logprobs[start:]) for _, (s, start) in zip(row, scores, strict=False)]
            for row in cuts
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
        for row, group in enumerate(group_indexes(prompts)):
            if group == len(branches):
                branches.append([])
                prompt_ids.append(self._prompt_ids(prompts[row]))
            for k, cut in enumerate(cuts[row]):
                branch = Branch(
                    token_ids=self._prefix_ids(cut),
                    num_samples=self.config.num_continuations,
                    max_new_tokens=self._most_new_tokens(cut),
                    seed=seed_of(*seed, ids[row], k),
                )
                self._check_room(len(prompt_ids[-1]), len(branch.token_ids), branch.max_new_tokens)
                branches[-1].append(branch)
        return [
            PrefixTree(prompt_ids=ids, branches=below)
            for ids, below in zip(prompt_ids, branches, strict=True)
        ]

    def _most_new_tokens(self, cut: Cut) -> int:
        if self.config.mode == "force":
            return self.config.answer_tokens
        return max(1, self.max_new_tokens - cut.position + self.config.slack_tokens)

    def _prefix_ids(self, cut: Cut) -> list[int]:
        """What the receiver reads as the beginning of its answer."""
        return cut.receiver_ids if self.config.mode == "sample" else [*cut.receiver_ids, *self.forcing_ids]

    def _graded_text(
        self, cuts: Sequence[Sequence[Cut]], asked: Asked, place: Place, completion: Completion
    ) -> str:
        row, k = asked.row_and_cut(place)
        forced = "" if self.config.mode == "sample" else self.config.forcing_text
        return cuts[row][k].text + forced + self._text_after(self._prefix_ids(cuts[row][k]), completion)

    def _grade(self, pairs: Sequence[tuple[str, str] | None]) -> list[Verdict | None]:
        graded = iter(self.grader.grade([pair for pair in pairs if pair is not None]))
        return [None if pair is None else next(graded) for pair in pairs]

    def _text_after(self, prefix_ids: Sequence[int], completion: Completion) -> str:
        # decoded after its prefix: alone it could lose a space or begin inside a character
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
