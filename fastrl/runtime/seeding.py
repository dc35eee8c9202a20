"""Seeds derived from the run's seed and a path, so that there is no generator state to save or restore."""

from __future__ import annotations

import hashlib


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed for a path such as (run seed, "rollout", step, prompt)."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
