"""A frozen executor: it reads a problem, perhaps with a trace, and answers; its answers are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastrl.config import ExecutorConfig
from fastrl.data.prompts import encode_inside, render_prompt, shared_length
from fastrl.engine.protocol import Engine
from fastrl.methods.tracelift.executor_prompts import ExecutorPrompts
from fastrl.methods.tracelift.verifiers import Checked, Verifier
from fastrl.runtime.seeding import seed_of
from fastrl.types import Branch, FinishReason, PrefixTree, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One problem, put to the executor num_samples times in the same words."""

    question: str
    trace: str | None
    """None: the executor is on its own."""
    reference: Any
    """What answers are checked against; see Verifier.reference."""
    num_samples: int
    seed: int
    keep: bool = False
    """The answers are kept, and the same request is not asked again."""

    @property
    def key(self) -> tuple[object, ...]:
        return self.question, self.trace, repr(self.reference), self.num_samples, self.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the executor wrote, with what its answer was begun with; and whether it is right.

    One that ran out of tokens is checked as it is."""

    text: str
    finish_reason: FinishReason
    checked: Checked


class Executor:
    """Puts problems and traces to a frozen model and checks its answers.

    The executor reads them in its own chat template, and its answer begins with the configured words. All
    requests of a call are one request to its engine, all those of one problem one prefix tree: what their
    prompts begin with alike is computed once, for equal traces all of it. All answers go to the verifier at
    once.

    Args:
        engine: the frozen model.
        verifier: of the configuration's task.
    """

    def __init__(self, engine: Engine, config: ExecutorConfig, verifier: Verifier) -> None:
        self.engine, self.config, self.verifier = engine, config, verifier
        self.prompts = ExecutorPrompts(config)
        self.begin_ids = encode_inside(engine.tokenizer, self.prompts.begin)
        self._kept: dict[tuple[object, ...], list[Answer]] = {}

    def check_capacity(self, questions: Sequence[str], trace_tokens: int) -> None:
        """Raises ValueError where the executor could not hold a question, a trace of so many tokens, and its
        answer."""
        for question in questions:
            # any trace: the words around it count too
            self._check_room(len(self._prompt_ids(question, "-")) + trace_tokens)

    def success_rates(
        self,
        questions: Sequence[str],
        traces: Sequence[str | None],
        references: Sequence[Any],
        repeats: int,
        seed: int,
    ) -> list[float]:
        """Share of `repeats` right answers to each question with its trace (None: without one).

        Draws are a function of (seed, question, trace) alone.
        """
        requests = [
            Request(
                question=question, trace=trace, reference=reference, num_samples=repeats,
                seed=seed_of(seed, "executor", question, "alone" if trace is None else f"with {trace}"),
            )
            for question, trace, reference in zip(questions, traces, references, strict=True)
        ]  # fmt: skip
        return [success_rate(answers) for answers in self.run(requests)]

    def keeps(self, request: Request) -> bool:
        """Its answers are here already."""
        return request.key in self._kept

    def run(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """[request][sample]; sample j draws from (request.seed, j) alone."""
        fresh = [request for request in requests if not request.keep]
        once = {r.key: r for r in requests if r.keep and not self.keeps(r)}
        answers = self._ask([*fresh, *once.values()])
        self._kept.update(zip(once, answers[len(fresh) :], strict=True))
        found = iter(answers)
        return [self._kept[request.key] if request.keep else next(found) for request in requests]

    def _ask(self, requests: Sequence[Request]) -> list[list[Answer]]:
        if not requests:
            return []
        trees, places = self._trees(requests)
        sampling = SamplingParams(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            stop=self.config.stop,
        )
        found = self.engine.continue_prefixes(trees, sampling)
        completions = [found[tree][branch] for tree, branch in places]
        written = [[self._text(each.token_ids) for each in samples] for samples in completions]
        pairs = [(text, r.reference) for r, texts in zip(requests, written, strict=True) for text in texts]
        checked = iter(self.verifier.check(pairs))
        return [
            [
                Answer(text=text, finish_reason=each.finish_reason, checked=next(checked))
                for text, each in zip(texts, samples, strict=True)
            ]
            for texts, samples in zip(written, completions, strict=True)
        ]

    def _trees(self, requests: Sequence[Request]) -> tuple[list[PrefixTree], list[tuple[int, int]]]:
        """Trees, and (tree, branch) of each request."""
        asked = [self._prompt_ids(request.question, request.trace) for request in requests]
        members: dict[tuple[str, int], list[int]] = {}  # a tree has at least one token that all share
        for i, (request, token_ids) in enumerate(zip(requests, asked, strict=True)):
            self._check_room(len(token_ids))
            members.setdefault((request.question, token_ids[0]), []).append(i)
        trees: list[PrefixTree] = []
        places = [(0, 0)] * len(requests)
        for own in members.values():
            shared = shared_length([asked[i] for i in own])
            for branch, i in enumerate(own):
                places[i] = (len(trees), branch)
            below = [self._branch(requests[i], asked[i][shared:]) for i in own]
            trees.append(PrefixTree(prompt_ids=asked[own[0]][:shared], branches=below))
        return trees, places

    def _branch(self, request: Request, token_ids: list[int]) -> Branch:
        return Branch(
            token_ids=token_ids,
            num_samples=request.num_samples,
            max_new_tokens=self.config.max_new_tokens,
            seed=request.seed,
        )

    def _prompt_ids(self, question: str, trace: str | None) -> list[int]:
        messages = self.prompts.messages(question, trace)
        return [*render_prompt(self.engine.tokenizer, messages), *self.begin_ids]

    def _text(self, token_ids: Sequence[int]) -> str:
        # decoded behind its beginning: alone it could lose a space
        text: str = self.engine.tokenizer.decode(
            [*self.begin_ids, *token_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _check_room(self, prompt: int) -> None:
        new = self.config.max_new_tokens
        if prompt + new > self.engine.max_model_len:
            raise ValueError(
                f"[executor] model: expected room for question and trace {prompt} + new {new}, got "
                f"max_model_len {self.engine.max_model_len}; lower executor.max_trace_chars, "
                "executor.max_question_chars or executor.max_new_tokens, or take one with a longer context"
            )


def success_rate(answers: Sequence[Answer]) -> float:
    return num_right(answers) / len(answers)


def num_right(answers: Sequence[Answer]) -> int:
    return sum(answer.checked.success for answer in answers)
