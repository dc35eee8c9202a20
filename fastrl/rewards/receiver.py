"""A frozen model that continues what another one began: the measuring instrument of the transfer reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.config import TransferConfig
from fastrl.data import as_messages, gold_text, render_prompt
from fastrl.engine.protocol import Engine
from fastrl.rewards.batch import group_indexes
from fastrl.rewards.cuts import Cut, Cutter
from fastrl.seeding import seed_of
from fastrl.types import Branch, Completion, FinishReason, PrefixTree, SamplingParams
from fastrl.verify import AnswerGrader, Verdict


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


class Receiver:
    """Continues cuts of the policy's rollouts and grades what comes out.

    The receiver gets the question in its own chat template and the kept text as the beginning of its answer,
    never the gold answer. All continuations of a call are one request to its engine, all cuts of one question
    one prefix tree.

    Args:
        engine: the frozen model.
        policy_tokenizer: of the model whose rollouts are cut.
        grader: compares prefix + continuation with the gold answer.
        config: temperature, top_p, num_continuations, strip_answer and slack_tokens are used.
        max_new_tokens: longest rollout; a continuation may have max_new_tokens - position + slack_tokens.
    """

    def __init__(
        self,
        engine: Engine,
        policy_tokenizer: Any,
        grader: AnswerGrader,
        config: TransferConfig,
        max_new_tokens: int,
    ) -> None:
        self.engine = engine
        self.grader = grader
        self.config = config
        self.max_new_tokens = max_new_tokens
        self.cutter = Cutter(policy_tokenizer, engine.tokenizer, strip_answer=config.strip_answer)

    def check_capacity(self, prompts: Sequence[Any]) -> None:
        """Raises ValueError where the receiver could not hold a rollout and its continuation."""
        longest = max((len(self._prompt_ids(prompt)) for prompt in prompts), default=0)
        self._check_room(longest, 0, self.max_new_tokens + self.config.slack_tokens)

    def continue_cuts(
        self,
        prompts: Sequence[Any],
        cuts: Sequence[Sequence[Cut]],
        gold: Sequence[Any],
        *seed: int | str,
        ids: Sequence[int] | None = None,
    ) -> list[list[list[Continuation]]]:
        """[row][cut][sample]; cut k of row i draws from (seed, ids[i], k), ids being the rows' numbers where
        none are given. Equal prompts stand together."""
        trees = self._trees(prompts, cuts, seed, range(len(prompts)) if ids is None else ids)
        sampling = SamplingParams(temperature=self.config.temperature, top_p=self.config.top_p)
        found = [
            completions for tree in self.engine.continue_prefixes(trees, sampling) for completions in tree
        ]
        places = [(row, k, cut) for row, row_cuts in enumerate(cuts) for k, cut in enumerate(row_cuts)]
        flat = [(*place, one) for place, many in zip(places, found, strict=True) for one in many]
        texts = [self._text_after(cut, completion) for _, _, cut, completion in flat]
        verdicts = self._grade(
            [
                (cut.text + text, gold_text(gold[row])) if completion.finish_reason == "stop" else None
                for (row, _, cut, completion), text in zip(flat, texts, strict=True)
            ]
        )
        continuations: list[list[list[Continuation]]] = [[[] for _ in row_cuts] for row_cuts in cuts]
        for (row, k, _, completion), text, verdict in zip(flat, texts, verdicts, strict=True):
            continuations[row][k].append(
                Continuation(text=text, finish_reason=completion.finish_reason, verdict=verdict)
            )
        return continuations

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
                    token_ids=cut.receiver_ids,
                    num_samples=self.config.num_continuations,
                    max_new_tokens=max(1, self.max_new_tokens - cut.position + self.config.slack_tokens),
                    seed=seed_of(*seed, ids[row], k),
                )
                self._check_room(len(prompt_ids[-1]), len(cut.receiver_ids), branch.max_new_tokens)
                branches[-1].append(branch)
        return [
            PrefixTree(prompt_ids=ids, branches=below)
            for ids, below in zip(prompt_ids, branches, strict=True)
        ]

    def _grade(self, pairs: Sequence[tuple[str, str] | None]) -> list[Verdict | None]:
        graded = iter(self.grader.grade([pair for pair in pairs if pair is not None]))
        return [None if pair is None else next(graded) for pair in pairs]

    def _text_after(self, cut: Cut, completion: Completion) -> str:
        # decoded after its prefix: alone it could lose a space or begin inside a character
        prefix = self._decode(cut.receiver_ids)
        return self._decode([*cut.receiver_ids, *completion.token_ids])[len(prefix) :]

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
