"""A frozen executor: answers problems with or without a trace, and has the answers verified."""

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
class ExecutorRequest:
    """One prompt of the executor, answered num_samples times."""

    question: str
    trace: str | None
    """None: no trace."""
    reference: Any
    """The gold answer or tests; see Verifier.reference."""
    num_samples: int
    seed: int
    cache: bool = False
    """Store the answers and return them for equal requests later."""

    @property
    def key(self) -> tuple[object, ...]:
        """Key of the answer cache."""
        return self.question, self.trace, repr(self.reference), self.num_samples, self.seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An executor's answer and its check; a truncated answer is checked as it is."""

    text: str
    """Includes the words that every answer is made to begin with."""
    finish_reason: FinishReason
    checked: Checked


class Executor:
    """Prompts a frozen model with problems and traces, and checks its answers.

    Prompts use the executor's own chat template, and answers begin with the configured words. A call makes
    one engine call with one prefix tree per problem, so shared prompt tokens are prefilled once. The verifier
    checks all answers in one batch.

    Args:
        engine: engine of the frozen model.
        verifier: verifier of the configured task.
    """

    def __init__(self, engine: Engine, config: ExecutorConfig, verifier: Verifier) -> None:
        self.engine, self.config, self.verifier = engine, config, verifier
        self.prompts = ExecutorPrompts(config)
        self.begin_ids = encode_inside(engine.tokenizer, self.prompts.begin)
        self._cache: dict[tuple[object, ...], list[Answer]] = {}

    def check_capacity(self, questions: Sequence[str], trace_tokens: int) -> None:
        """Raise ValueError if the executor cannot hold a question, a trace of trace_tokens tokens and its
        answer."""
        for question in questions:
            # "-": the prompt with a trace has words around it, which count too
            self._check_room(len(self._prompt_ids(question, "-")) + trace_tokens)

    def success_rates(
        self,
        questions: Sequence[str],
        traces: Sequence[str | None],
        references: Sequence[Any],
        repeats: int,
        seed: int,
    ) -> list[float]:
        """Return the fraction of correct answers among `repeats` samples, per question and trace.

        Draws depend only on (seed, question, trace); a trace of None means no trace.
        """
        requests = [
            ExecutorRequest(
                question=question, trace=trace, reference=reference, num_samples=repeats,
                seed=seed_of(seed, "executor", question, "alone" if trace is None else f"with {trace}"),
            )
            for question, trace, reference in zip(questions, traces, references, strict=True)
        ]  # fmt: skip
        return [success_rate(answers) for answers in self.run(requests)]

    def is_cached(self, request: ExecutorRequest) -> bool:
        """Return True if an equal request's answers are stored."""
        return request.key in self._cache

    def run(self, requests: Sequence[ExecutorRequest]) -> list[list[Answer]]:
        """Return answers [request][sample]; draws of sample j depend only on (request.seed, j)."""
        fresh = [request for request in requests if not request.cache]
        once = {r.key: r for r in requests if r.cache and not self.is_cached(r)}
        answers = self._ask([*fresh, *once.values()])
        self._cache.update(zip(once, answers[len(fresh) :], strict=True))
        found = iter(answers)
        return [self._cache[request.key] if request.cache else next(found) for request in requests]

    def _ask(self, requests: Sequence[ExecutorRequest]) -> list[list[Answer]]:
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
        written = [[self._text(sample.token_ids) for sample in samples] for samples in completions]
        pairs = [(text, r.reference) for r, texts in zip(requests, written, strict=True) for text in texts]
        checked = iter(self.verifier.check(pairs))
        return [
            [
                Answer(text=text, finish_reason=sample.finish_reason, checked=next(checked))
                for text, sample in zip(texts, samples, strict=True)
            ]
            for texts, samples in zip(written, completions, strict=True)
        ]

    def _trees(self, requests: Sequence[ExecutorRequest]) -> tuple[list[PrefixTree], list[tuple[int, int]]]:
        """Build the prefix trees; return them with the (tree, branch) of each request."""
        prompts = [self._prompt_ids(request.question, request.trace) for request in requests]
        members: dict[tuple[str, int], list[int]] = {}  # a tree shares at least one token
        for i, (request, token_ids) in enumerate(zip(requests, prompts, strict=True)):
            self._check_room(len(token_ids))
            members.setdefault((request.question, token_ids[0]), []).append(i)
        trees: list[PrefixTree] = []
        places = [(0, 0)] * len(requests)
        for own in members.values():
            shared = shared_length([prompts[i] for i in own])
            for branch, i in enumerate(own):
                places[i] = (len(trees), branch)
            below = [self._branch(requests[i], prompts[i][shared:]) for i in own]
            trees.append(PrefixTree(prompt_ids=prompts[own[0]][:shared], branches=below))
        return trees, places

    def _branch(self, request: ExecutorRequest, token_ids: list[int]) -> Branch:
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
        # decoded together with its beginning: a leading space would be lost otherwise
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
