"""Builds pools from seeds: drafts flawed traces by calculator, file or model, and judges unlabelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import torch

from fastrl.config import GroupsConfig
from fastrl.engine.build import build_engine
from fastrl.methods.tracelift.groups.asking import AnswerFile, ask
from fastrl.methods.tracelift.groups.calculator import perturb, work_of
from fastrl.methods.tracelift.groups.drafts import Draft, Judgment, UnusableError
from fastrl.methods.tracelift.groups.filters import Pool
from fastrl.methods.tracelift.groups.given import given_drafts
from fastrl.methods.tracelift.groups.judge import judge_request
from fastrl.methods.tracelift.groups.rationale import parse_rationale, read_number
from fastrl.methods.tracelift.groups.seeds import Seed
from fastrl.methods.tracelift.groups.written import writing_requests
from fastrl.runtime.seeding import seed_of

Drafted = tuple[Seed, list[Draft]]


@dataclass(slots=True)
class Proposals:
    """Pools before the filters, and counts of what was dropped."""

    pools: list[Pool] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped seeds, by cause."""
    unread_written: Counter[str] = field(default_factory=Counter)
    """Unparseable replies of the writer, by cause."""
    unread_judged: Counter[str] = field(default_factory=Counter)
    """Unparseable replies of the judge, by cause."""


def propose(
    seeds: Sequence[Seed], config: GroupsConfig, device: torch.device, answers: Callable[[str], AnswerFile]
) -> Proposals:
    """Build a pool for every seed with flawed traces and a good trace judged strong or acceptable.

    Args:
        answers: opens the answer file of a name.
    """
    out = Proposals()
    if config.negatives == "written":
        drafted = _written(seeds, config, answers("written.jsonl"), device, out)
    else:
        drafted = _found(seeds, config, out)
    judgments = _judged(drafted, config, answers("judged.jsonl"), device, out)
    for seed, own in drafted:
        positive = seed.positive.judgment or judgments.get(_key(seed, "positive"))
        if positive is None:
            out.dropped["the positive could not be judged"] += 1
            continue
        if positive.label in ("weak", "bad"):
            out.dropped["the positive is judged weak or bad"] += 1
            continue
        pairs = [(d, d.judgment or judgments.get(_key(seed, str(i)))) for i, d in enumerate(own)]
        negatives = [draft.judged(judgment) for draft, judgment in pairs if judgment is not None]
        out.pools.append(Pool(seed, seed.positive.judged(positive), negatives))
    return out


def _found(seeds: Sequence[Seed], config: GroupsConfig, out: Proposals) -> list[Drafted]:
    """Draft flawed traces without a model: read or calculate them."""
    drafted: list[Drafted] = []
    for seed in seeds:
        try:
            if config.negatives == "given":
                drafts = given_drafts(seed.row, config.task, f"problem {seed.problem_id}")
            else:
                drafts = calculated(seed, config.candidates, config.run.seed)
            drafted.append((seed, drafts))
        except UnusableError as error:
            out.dropped[str(error)] += 1
    return drafted


def calculated(seed: Seed, count: int, run_seed: int) -> list[Draft]:
    """Perturb the seed's rationale with calculator marks; labels are exact.

    Raises:
        UnusableError: the rationale can't be parsed, or its last equation is not the answer.
    """
    rationale = parse_rationale(seed.reference_solution)
    try:
        gold = read_number(seed.answer)
    except ValueError as error:
        raise UnusableError("an answer that is no number") from error
    if rationale.result_of(rationale.equations[-1]) != gold:
        raise UnusableError("the last equation is not the answer")
    random = Random(seed_of(run_seed, "calculator", seed.problem_id))
    return perturb(work_of(seed.problem, rationale), count, random)


def _written(
    seeds: Sequence[Seed], config: GroupsConfig, answers: AnswerFile, device: torch.device, out: Proposals
) -> list[Drafted]:
    per_seed = [writing_requests(seed, config.task, config.candidates, config.run.seed) for seed in seeds]
    requests = [request for own in per_seed for request in own]
    build = partial(build_engine, config.writer.model, config.writer.engine, device)
    found, out.unread_written = ask(build, config.writer, requests, answers, config.run.seed)
    return [
        (seed, [found[request.key] for request in own if request.key in found])
        for seed, own in zip(seeds, per_seed, strict=True)
    ]


def _judged(
    drafted: Sequence[Drafted],
    config: GroupsConfig,
    answers: AnswerFile,
    device: torch.device,
    out: Proposals,
) -> dict[str, Judgment]:
    """Judge the traces without a judgment, by key; loads no model if there are none."""
    requests = [
        judge_request(_key(seed, name), config.task, seed.problem, seed.reference_solution, draft.text)
        for seed, own in drafted
        for name, draft in (("positive", seed.positive), *((str(i), d) for i, d in enumerate(own)))
        if draft.judgment is None
    ]
    build = partial(build_engine, config.judge.model, config.judge.engine, device)
    found, out.unread_judged = ask(build, config.judge, requests, answers, config.run.seed)
    return found


def _key(seed: Seed, name: str) -> str:
    return f"{seed.problem_id}/{name}"
