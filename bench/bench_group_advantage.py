"""Time group_advantage on groups of 8: C++ against the reference."""

from __future__ import annotations

import torch

from bench.harness import arguments, compare, finish, show
from fastrl.ops import group_advantage


def main() -> None:
    given = arguments("group_advantage")
    results: list[dict[str, object]] = []
    for groups in (64,) if given.small else (64, 1024):
        rewards, ids = torch.rand(groups * 8), torch.arange(groups).repeat_interleave(8)
        providers = {
            backend: lambda backend=backend, rewards=rewards, ids=ids: group_advantage(
                rewards, ids, backend=backend
            )
            for backend in ("cpp", "reference")
        }
        rows = compare(providers, given.rounds)
        show(f"{groups} groups of 8", rows, rewards.numel() * 16 / 1e9, "GB")
        results += [{"groups": groups, "provider": name, **row} for name, row in rows.items()]
    finish("group_advantage", results, given.out)


if __name__ == "__main__":
    main()
