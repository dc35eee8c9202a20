"""Success from a beginning: how often the model, going on from it, reaches the gold answer."""

from __future__ import annotations

from collections.abc import Sequence

from fastrl.config import InterveneConfig
from fastrl.data import render_prompt
from fastrl.data.prompts import encode_inside
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader, Verdict
from fastrl.methods.interventions.problems import HardProblem
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import Budget, charged
from fastrl.types import Branch, Completion, PrefixTree, SamplingParams

Beginning = tuple[int, str]
"""(place of the problem, how the model's answer to it begins)."""


class Continuer:
    """Continues beginnings of answers num_continuations times and grades what comes out.

        p(beginning) = mean over n of 1[answer(beginning z_n) == gold],  z_n ~ model(. | problem, beginning)

    The model reads the problem as it did when it made the attempts. All beginnings of a problem are one
    prefix tree: the prompt, an attempt's prefix and whatever else two of them share are computed once. A
    continuation that does not finish counts as wrong. Draws are a function of (seed, problem, beginning)
    alone.

    Args:
        room: longest prompt and completion, in tokens.
    """

    def __init__(self, engine: Engine, grader: AnswerGrader, config: InterveneConfig, room: int) -> None:
        self.engine, self.grader, self.config, self.room = engine, grader, config, room

    def success_rates(
        self, problems: Sequence[HardProblem], beginnings: Sequence[Beginning], budget: Budget
    ) -> dict[Beginning, float]:
        """p of each distinct beginning; those that leave no room for a continuation are not in it."""
        below: dict[int, dict[str, Branch]] = {}
        prompts: dict[int, list[int]] = {}
        for place, text in dict.fromkeys(beginnings):
            problem = problems[place]
            if place not in prompts:
                prompts[place] = render_prompt(self.engine.tokenizer, problem.messages)
            branch = self._branch(problem, text, len(prompts[place]))
            if branch is not None:
                below.setdefault(place, {})[text] = branch
        trees = [
            PrefixTree(prompt_ids=prompts[place], branches=list(branches.values()))
            for place, branches in below.items()
        ]
        config = self.config.continuation
        sampling = SamplingParams(
            temperature=config.temperature, top_p=config.top_p, top_k=config.top_k, stop=config.stop
        )
        with charged(self.engine, budget, "continue"):
            found = self.engine.continue_prefixes(trees, sampling)
        asked = [
            ((place, text), branch, samples)
            for (place, branches), per_branch in zip(below.items(), found, strict=True)
            for (text, branch), samples in zip(branches.items(), per_branch, strict=True)
        ]
        return self._graded(problems, asked)

    def _branch(self, problem: HardProblem, text: str, prompt_tokens: int) -> Branch | None:
        token_ids = encode_inside(self.engine.tokenizer, text)
        left = self.room - prompt_tokens - len(token_ids)
        if left < 1:
            return None
        return Branch(
            token_ids=token_ids,
            num_samples=self.config.num_continuations,
            max_new_tokens=min(self.config.continuation.max_new_tokens, left),
            seed=seed_of(self.config.run.seed, "continue", problem.index, text),
        )

    def _graded(
        self, problems: Sequence[HardProblem], asked: Sequence[tuple[Beginning, Branch, list[Completion]]]
    ) -> dict[Beginning, float]:
        finished = [
            (beginning, self._text([*branch.token_ids, *each.token_ids]))
            for beginning, branch, samples in asked
            for each in samples
            if each.finish_reason == "stop"
        ]
        verdicts = self.grader.grade([(text, problems[place].solution) for (place, _), text in finished])
        correct = {beginning: 0 for beginning, _, _ in asked}
        for (beginning, _), verdict in zip(finished, verdicts, strict=True):
            correct[beginning] += verdict is Verdict.CORRECT
        return {beginning: count / self.config.num_continuations for beginning, count in correct.items()}

    def _text(self, token_ids: Sequence[int]) -> str:
        text: str = self.engine.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
