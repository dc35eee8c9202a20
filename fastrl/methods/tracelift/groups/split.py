"""Which problems are held out."""

from __future__ import annotations

import hashlib


def is_dev(seed: int, problem_id: str, share: float) -> bool:
    """sha256("seed:problem_id") / 2^256 < share: a problem's side depends on nothing else."""
    digest = hashlib.sha256(f"{seed}:{problem_id}".encode()).digest()
    return int.from_bytes(digest, "big") < share * 2**256
