"""The groups stage (TRACELIFT-GROUPS, arXiv 2605.03862): per problem, one good and several flawed traces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastrl.config import GroupsConfig
from fastrl.engine.build import choose_device
from fastrl.methods.tracelift.build import build_executor
from fastrl.methods.tracelift.groups.asking import AnswerFile
from fastrl.methods.tracelift.groups.counts import count
from fastrl.methods.tracelift.groups.filters import Filtered, Pool, filter_by_executor, filter_pools
from fastrl.methods.tracelift.groups.page import page
from fastrl.methods.tracelift.groups.proposals import propose
from fastrl.methods.tracelift.groups.seeds import read_seeds
from fastrl.methods.tracelift.groups.split import is_dev
from fastrl.methods.tracelift.trace_groups import Group, write_groups
from fastrl.report.reporter import Reporter
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import Run, write_atomic

__all__ = ["read_counts", "run_groups"]

COUNTS = "counts.json"


def run_groups(config: GroupsConfig, ranks: Ranks | None = None) -> Path:
    """Build groups from problems with a reference solution.

        seeds -> flawed traces -> judgments -> filters -> groups with enough flawed traces -> train/dev split

    Writes train and dev (.jsonl or .parquet), page.html with counts and examples, and finally counts.json; a
    folder with counts.json is finished. Models' replies are stored in written.jsonl, judged.jsonl and
    executed.jsonl, and a resumed run reuses them. The ranks share the requests, each with its own engine and
    files.

    Returns: the run folder.
    Raises:
        FileNotFoundError, ValueError: a file, column or option is invalid, or no group is left.
    """
    ranks = ranks or Ranks()
    run = Run.start(config, writes=ranks.first)
    (finished,) = ranks.gather([(run.folder / COUNTS).is_file()] if ranks.first else [])
    if not finished:
        build(config, run, ranks)
        ranks.wait()
    counts = read_counts(run.folder)
    if not counts["groups"]["train"]:
        raise ValueError(
            f"[groups] min_negatives: expected a group to train on that keeps {config.min_negatives} flawed "
            f"traces, got none of {counts['seeds']['usable']} problems; {run.folder / COUNTS} says why"
        )
    return run.folder


def build(config: GroupsConfig, run: Run, ranks: Ranks) -> None:
    """Write all files of run_groups."""
    device, folder = choose_device(config.run), run.folder
    seeds, unusable = read_seeds(config)
    with Reporter(run, config, unit="answer") as reporter:

        def answers(name: str) -> AnswerFile:
            return AnswerFile(folder / name, ranks, reporter)

        proposals = propose(seeds, config, device, answers)
        pools = proposals.pools
        proposed = Counter(trace.negative_kind for pool in pools for trace in pool.negatives)
        filters = filter_pools(pools, config)
        if config.executor.model.path:
            filters.append(check_with_executor(pools, config, answers("executed.jsonl"), device))
    if not ranks.first:
        return
    groups = [group_of(pool, config) for pool in pools if len(pool.negatives) >= config.min_negatives]
    dev = [group for group in groups if is_dev(config.run.seed, group.problem_id, config.dev_share)]
    train = [group for group in groups if not is_dev(config.run.seed, group.problem_id, config.dev_share)]
    for name, part in (("train", train), ("dev", dev)):
        if part:
            write_groups(folder / f"{name}.{config.format}", part)
    counts = count(len(seeds), unusable, proposals, proposed, filters, train, dev)
    write_atomic(folder / "page.html", page(counts, [*train, *dev], config))
    write_atomic(folder / COUNTS, json.dumps(counts, indent=2) + "\n")


def check_with_executor(
    pools: Sequence[Pool], config: GroupsConfig, answers: AnswerFile, device: torch.device
) -> Filtered:
    """Apply filter_by_executor with the configured executor."""
    executor = build_executor(config.executor, config.writer.engine, device)
    try:
        references = [
            executor.verifier.reference(
                {**pool.seed.row, "question": pool.seed.problem, "solution": pool.seed.answer}
            )
            for pool in pools
        ]
        return filter_by_executor(
            pools, references, executor, config.executor_repeats, config.run.seed, answers
        )
    finally:
        executor.verifier.close()
        executor.engine.sleep()


def group_of(pool: Pool, config: GroupsConfig) -> Group:
    seed = pool.seed
    return Group(
        problem_id=seed.problem_id,
        task=config.task,
        problem=seed.problem,
        reference_solution=seed.reference_solution,
        answer=seed.answer,
        positive_pool=(pool.positive,),
        negative_bank=tuple(pool.negatives),
        tests=seed.tests,
        columns=seed.columns,
    )


def read_counts(folder: Path) -> dict[str, Any]:
    """Read counts.json; see counts.count."""
    counts: dict[str, Any] = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    return counts
