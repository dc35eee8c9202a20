"""The split into training and held-out problems."""

from __future__ import annotations

import hashlib


def is_dev(seed: int, problem_id: str, share: float) -> bool:
    """Return True for held-out problems: sha256("seed:problem_id") / 2^256 < share."""
    digest = hashlib.sha256(f"{seed}:{problem_id}".encode()).digest()
    return int.from_bytes(digest, "big") < share * 2**256
