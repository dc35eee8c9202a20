"""Proposals: the model checks its failed attempts against a reference and rewrites the first wrong step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastrl.config import InterveneConfig, ProposalConfig
from fastrl.data import render_prompt
from fastrl.data.prompts import shared_length
from fastrl.engine.protocol import Engine
from fastrl.methods.interventions.problems import HardProblem
from fastrl.methods.interventions.prompts import ProposalPrompts
from fastrl.methods.interventions.segment import Steps
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import Budget, charged
from fastrl.types import Branch, Completion, PrefixTree, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The model's replies about one attempt."""

    problem: HardProblem
    attempt: int
    completions: list[Completion] | None
    """One per sample. None: the conversation was too long."""
    solution_was_cut: bool
    """The guided solution was truncated to make the conversation fit."""

    @property
    def steps(self) -> Steps:
        return self.problem.attempts[self.attempt]


class Proposer:
    """Asks the model to solve each problem along its reference and to check its failed attempts.

    The guided solution of a problem is sampled once, used even if truncated, and precedes all its attempts.
    The common prefix of a problem's conversations is prefilled once. Draws of sample j depend only on (seed,
    problem, attempt, j).

    Args:
        room: longest prompt + completion, in tokens.
    """

    def __init__(self, engine: Engine, config: InterveneConfig, room: int) -> None:
        self.engine, self.room, self.seed = engine, room, config.run.seed
        self.config: ProposalConfig = config.proposal
        self.prompts = ProposalPrompts(self.config)
        self.most_tokens = min(self.config.max_conversation_tokens, room - self.config.verify_tokens)

    def check(self, problems: Sequence[HardProblem], budget: Budget) -> list[Check]:
        """Return one Check per attempt, in order."""
        solutions = self._solutions(problems, budget)
        fitted = [
            [self._fitted(problem, attempt, solution) for attempt in range(len(problem.attempts))]
            for problem, solution in zip(problems, solutions, strict=True)
        ]
        trees = [
            self._tree(problem, [ids for ids, _ in own])
            for problem, own in zip(problems, fitted, strict=True)
        ]
        with charged(self.engine, budget, "verify"):
            written = self._ask([tree for tree in trees if tree is not None])
        found = iter(written)
        checks = []
        for problem, own, tree in zip(problems, fitted, trees, strict=True):
            answers = iter([] if tree is None else next(found))
            for attempt, (ids, was_cut) in enumerate(own):
                completions = None if ids is None else next(answers)
                checks.append(
                    Check(problem=problem, attempt=attempt, completions=completions, solution_was_cut=was_cut)
                )
        return checks

    def _solutions(self, problems: Sequence[HardProblem], budget: Budget) -> list[str | None]:
        """Sample each problem's guided solution; None in form short, without attempts, or without room."""
        if self.config.form == "short":
            return [None] * len(problems)
        prompts = [
            render_prompt(self.engine.tokenizer, self.prompts.solve(own.question, own.reference))
            for own in problems
        ]
        trees = {
            place: PrefixTree(
                prompt_ids=prompt,
                branches=[
                    Branch(
                        token_ids=(),
                        max_new_tokens=min(self.config.solve_tokens, self.room - len(prompt)),
                        seed=seed_of(self.seed, "solve", problem.index),
                    )
                ],
            )
            for place, (problem, prompt) in enumerate(zip(problems, prompts, strict=True))
            if problem.attempts and len(prompt) < self.room
        }
        with charged(self.engine, budget, "solve"):
            found = dict(zip(trees, self._ask(list(trees.values())), strict=True))
        return [found[place][0][0].text if place in found else None for place in range(len(problems))]

    def _fitted(
        self, problem: HardProblem, attempt: int, solution: str | None
    ) -> tuple[list[int] | None, bool]:
        """Return the conversation's tokens and whether the solution was truncated; None if it is too long."""

        def tokens(kept: str | None) -> list[int]:
            turns = self.prompts.verify(
                problem.question, problem.reference, problem.solution, kept, problem.attempts[attempt]
            )
            return render_prompt(self.engine.tokenizer, turns)

        if self.config.form == "full" and solution is None:
            return None, False
        whole = tokens(solution)
        if len(whole) <= self.most_tokens:
            return whole, False
        if not solution or len(tokens("")) > self.most_tokens:
            return None, False
        low, high = 0, len(solution)  # characters that fit, characters that do not
        while high - low > 1:
            middle = (low + high) // 2
            fits = len(tokens(solution[:middle])) <= self.most_tokens
            low, high = (middle, high) if fits else (low, middle)
        return tokens(solution[:low]), True

    def _tree(self, problem: HardProblem, prompts: Sequence[list[int] | None]) -> PrefixTree | None:
        """Build the prefix tree of the conversations about one problem."""
        present = [(attempt, ids) for attempt, ids in enumerate(prompts) if ids is not None]
        if not present:
            return None
        shared = shared_length([ids for _, ids in present])
        branches = [
            Branch(
                token_ids=ids[shared:],
                num_samples=self.config.num_samples,
                max_new_tokens=self.config.verify_tokens,
                seed=seed_of(self.seed, "verify", problem.index, attempt),
            )
            for attempt, ids in present
        ]
        return PrefixTree(prompt_ids=present[0][1][:shared], branches=branches)

    def _ask(self, trees: list[PrefixTree]) -> list[list[list[Completion]]]:
        config = self.config
        sampling = SamplingParams(temperature=config.temperature, top_p=config.top_p, top_k=config.top_k)
        return self.engine.continue_prefixes(trees, sampling)
