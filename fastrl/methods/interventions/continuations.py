"""Success rates of answer prefixes: how often the model's continuations reach the gold answer."""

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

PlacedPrefix = tuple[int, str]
"""(index of the problem in the chunk, prefix of the model's answer)."""


class Continuer:
    """Continues answer prefixes num_continuations times each and grades the results.

        p(prefix) = mean over n of 1[answer(prefix z_n) == gold],  z_n ~ model(. | problem, prefix)

    The prompt is the one that produced the attempts. All prefixes of a problem form one prefix tree: shared
    tokens are prefilled once. A truncated continuation counts as wrong. Draws depend only on (seed, problem,
    prefix).

    Args:
        room: longest prompt + completion, in tokens.
    """

    def __init__(self, engine: Engine, grader: AnswerGrader, config: InterveneConfig, room: int) -> None:
        self.engine, self.grader, self.config, self.room = engine, grader, config, room

    def success_rates(
        self, problems: Sequence[HardProblem], prefixes: Sequence[PlacedPrefix], budget: Budget
    ) -> dict[PlacedPrefix, float]:
        """Return p of each distinct prefix; prefixes that leave no room for a continuation are absent."""
        below: dict[int, dict[str, Branch]] = {}
        prompts: dict[int, list[int]] = {}
        for place, text in dict.fromkeys(prefixes):
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
        sampled = [
            ((place, text), branch, samples)
            for (place, branches), per_branch in zip(below.items(), found, strict=True)
            for (text, branch), samples in zip(branches.items(), per_branch, strict=True)
        ]
        return self._rates(problems, sampled)

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

    def _rates(
        self,
        problems: Sequence[HardProblem],
        sampled: Sequence[tuple[PlacedPrefix, Branch, list[Completion]]],
    ) -> dict[PlacedPrefix, float]:
        finished = [
            (prefix, self._text([*branch.token_ids, *sample.token_ids]))
            for prefix, branch, samples in sampled
            for sample in samples
            if sample.finish_reason == "stop"
        ]
        verdicts = self.grader.grade([(text, problems[place].solution) for (place, _), text in finished])
        correct = {prefix: 0 for prefix, _, _ in sampled}
        for (prefix, _), verdict in zip(finished, verdicts, strict=True):
            correct[prefix] += verdict is Verdict.CORRECT
        return {prefix: count / self.config.num_continuations for prefix, count in correct.items()}

    def _text(self, token_ids: Sequence[int]) -> str:
        text: str = self.engine.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
