"""Counts of a groups run: problems and flawed traces kept and dropped, by cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.methods.tracelift.groups.filters import Filtered
from fastrl.methods.tracelift.groups.proposals import Proposals
from fastrl.methods.tracelift.trace_groups import Group

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""(title, header, rows)."""


def count(
    num_seeds: int,
    unusable: Mapping[str, int],
    proposals: Proposals,
    proposed: Mapping[str | None, int],
    filters: Sequence[Filtered],
    train: Sequence[Group],
    dev: Sequence[Group],
) -> dict[str, Any]:
    """Return the counts, JSON-serialisable. Every problem and every flawed trace is counted once:

    seeds.usable + sum(seeds.dropped) = problems of the file;
    groups.train + dev + too_few_negatives = pools;
    per kind, proposed - dropped by the filters = left, of which `kept` are in groups
    """
    groups = [*train, *dev]
    kept = Counter(trace.negative_kind for group in groups for trace in group.negative_bank)
    pools = len(proposals.pools)
    dropped = Counter(unusable) + proposals.dropped
    return {
        "seeds": {"usable": num_seeds - proposals.dropped.total(), "dropped": _ranked(dropped)},
        "written_unread": _ranked(proposals.unread_written),
        "judged_unread": _ranked(proposals.unread_judged),
        "negatives": {
            str(kind): {"proposed": number, "kept": kept[kind]}
            for kind, number in sorted(proposed.items(), key=str)
        },
        "filters": [
            {"name": counted.name, "before": counted.before, "dropped": _ranked(counted.dropped)}
            for counted in filters
        ],
        "groups": {
            "train": len(train),
            "dev": len(dev),
            "too_few_negatives": pools - len(groups),
            "negatives": sum(len(group.negative_bank) for group in groups),
        },
    }


def _ranked(counter: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(counter).most_common())


def tables(counts: Mapping[str, Any]) -> list[Table]:
    """Return the tables that the command prints and the page shows."""
    seeds, groups = counts["seeds"], counts["groups"]
    filters = [
        (
            filter_counts["name"],
            f"{filter_counts['before']}",
            f"{sum(filter_counts['dropped'].values())}",
            _words(filter_counts["dropped"]),
        )
        for filter_counts in counts["filters"]
    ]
    out: list[Table] = [
        (
            "problems",
            ("", "number"),
            [("usable", f"{seeds['usable']}"), *((cause, f"{n}") for cause, n in seeds["dropped"].items())],
        ),
        (
            "flawed traces",
            ("kind", "proposed", "kept"),
            [(kind, f"{n['proposed']}", f"{n['kept']}") for kind, n in counts["negatives"].items()],
        ),
        ("filters", ("filter", "before", "dropped", "of kind"), filters),
        ("groups", ("", "number"), [(name.replace("_", " "), f"{n}") for name, n in groups.items()]),
    ]
    for name, title in (
        ("written_unread", "answers of the writer"),
        ("judged_unread", "answers of the judge"),
    ):
        if counts[name]:
            rows = [(cause, f"{n}") for cause, n in counts[name].items()]
            out.insert(2, (f"{title} that could not be read", ("cause", "number"), rows))
    return out


def _words(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in dropped.items())
