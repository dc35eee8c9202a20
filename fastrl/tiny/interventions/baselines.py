"""Training rows of InT's baselines: references, self-reflection, completed interventions, hints for RL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastrl.config import SamplingConfig, refuse
from fastrl.data import render_prompt
from fastrl.data.problems import as_messages
from fastrl.data.prompts import encode_inside
from fastrl.data.rows import Row
from fastrl.engine.protocol import Engine
from fastrl.grading import AnswerGrader, Verdict
from fastrl.methods.interventions.segment import filled, segment
from fastrl.runtime.seeding import seed_of
from fastrl.training.progress import Budget, charged
from fastrl.types import Branch, Completion, Message, PrefixTree, SamplingParams

REFLECT_TEMPLATE = """\
Here is a problem, and a solution of it that is known to be right.

Problem:
{question}

Solution:
{reference}

Work the problem out from the beginning to the end in your own way, step by step, with its help."""
HINT_TEMPLATE = """\
{question}

A right solution begins like this:
{hint}"""


def reference_rows(hard: Sequence[Row]) -> list[Row]:
    """Return SFT rows that clone a hard set's references."""
    return [{"prompt": row["messages"], "completion": row["reference"]} for row in hard]


def hinted_rows(hard: Sequence[Row], share: float = 0.5, template: str = HINT_TEMPLATE) -> list[Row]:
    """Return RL problems: each of the hard set plain, and again with the first steps of its reference.

        number of steps = ceil(share * steps of the reference), never including the last one

    A problem with a one-step reference has only the plain row.

    Args:
        share: in (0, 1).
        template: the user's last message, with {question} and {hint}.
    """
    if not 0 < share < 1:
        refuse("hint", "share", "a number in (0, 1)", share)
    rows = []
    for row in hard:
        messages = as_messages(row["messages"])
        plain = {"prompt": messages, "question": row["question"], "solution": row["solution"]}
        steps = segment(row["reference"], min_chars=1)
        shown = min(math.ceil(share * len(steps)), len(steps) - 1)
        rows.append(plain)
        if shown:
            rows.append(plain | {"prompt": hinted(messages, template, steps.upto(shown))})
    return rows


def hinted(messages: Sequence[Message], template: str, hint: str) -> list[Message]:
    """Insert the hint into the last user message."""
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    content = filled(template, question=messages[last]["content"], hint=hint)
    return [*messages[:last], Message(role="user", content=content), *messages[last + 1 :]]


def reflected_rows(
    engine: Engine,
    grader: AnswerGrader,
    hard: Sequence[Row],
    sampling: SamplingConfig,
    budget: Budget,
    *,
    num_samples: int,
    keep: int,
    seed: int,
    template: str = REFLECT_TEMPLATE,
) -> list[Row]:
    """Return SFT rows of the model's own solutions, sampled with the reference in view (self-reflection).

    A problem gives the first `keep` distinct correct ones of num_samples solutions. The row's prompt is the
    original one, without the reference. Draws of sample j depend on (seed, row, j).

    Args:
        template: the prompt, with {question} and {reference}.
        budget: requests and tokens are added under "reflect".
    """
    prompts = [
        [Message(role="user", content=filled(template, question=row["question"], reference=row["reference"]))]
        for row in hard
    ]
    with charged(engine, budget, "reflect"):
        found = engine.generate(
            [render_prompt(engine.tokenizer, messages) for messages in prompts],
            drawn(sampling),
            seeds=[seed_of(seed, "reflect", index) for index in range(len(hard))],
            n=num_samples,
        )
    texts = [[completion.text for completion in own if completion.finish_reason == "stop"] for own in found]
    right = right_ones(grader, texts, hard)
    return [
        {"prompt": row["messages"], "completion": text}
        for row, own in zip(hard, right, strict=True)
        for text in own[:keep]
    ]


def completed_rows(
    engine: Engine,
    grader: AnswerGrader,
    interventions: Sequence[Row],
    sampling: SamplingConfig,
    budget: Budget,
    *,
    num_samples: int,
    seed: int,
) -> list[Row]:
    """Complete rows of an intervene stage's sft.jsonl with the suffix that InT leaves out.

    The suffix is the first correct one of num_samples continuations, up to its end token; rows without a
    correct one are dropped.

    Args:
        budget: requests and tokens are added under "suffix".
    """
    starts = [row["prefix"] + row["completion"] for row in interventions]
    trees = [
        PrefixTree(
            prompt_ids=render_prompt(engine.tokenizer, as_messages(row["prompt"])),
            branches=[
                Branch(
                    token_ids=encode_inside(engine.tokenizer, start),
                    num_samples=num_samples,
                    max_new_tokens=sampling.max_new_tokens,
                    seed=seed_of(seed, "suffix", index),
                )
            ],
        )
        for index, (row, start) in enumerate(zip(interventions, starts, strict=True))
    ]
    with charged(engine, budget, "suffix"):
        found = engine.continue_prefixes(trees, drawn(sampling))
    ends = [
        [
            rest_of(engine.tokenizer, tree.branches[0], completion)
            for completion in own[0]
            if completion.finish_reason == "stop"
        ]
        for tree, own in zip(trees, found, strict=True)
    ]
    texts = [[start + end for end in own] for start, own in zip(starts, ends, strict=True)]
    right = right_ones(grader, texts, interventions)
    return [
        row | {"completion": own[0].removeprefix(row["prefix"]), "end": True}
        for row, own in zip(interventions, right, strict=True)
        if own
    ]


def drawn(sampling: SamplingConfig) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k,
        max_new_tokens=sampling.max_new_tokens, stop=sampling.stop,
    )  # fmt: skip


def rest_of(tokenizer: Any, branch: Branch, completion: Completion) -> str:
    """Return the text that a continuation adds to its branch, including spaces."""
    begun = list(branch.token_ids)
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    whole: str = tokenizer.decode([*begun, *completion.token_ids], **options)
    return whole.removeprefix(tokenizer.decode(begun, **options))


def right_ones(grader: AnswerGrader, texts: Sequence[Sequence[str]], rows: Sequence[Row]) -> list[list[str]]:
    """Return each row's distinct texts that reach its solution, in order."""
    pairs = [(text, row["solution"]) for own, row in zip(texts, rows, strict=True) for text in own]
    verdicts = iter(grader.grade(pairs))
    return [list(dict.fromkeys(text for text in own if next(verdicts) is Verdict.CORRECT)) for own in texts]
