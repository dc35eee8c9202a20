"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 40) -> str:
    """Draw the values as block characters, lowest to highest; longer series are averaged into `width` bins.

    A bin without a finite value is blank; a flat curve is drawn at the bottom.
    """
    if width < 1:
        raise ValueError(f"[sparkline] width: expected >= 1, got {width}")
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else [0]
    bins = [_mean(values[low:high]) for low, high in pairwise(edges)]
    given = [value for value in bins if value is not None]
    if not given:
        return " " * count
    low, span = min(given), max(given) - min(given)

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        return BARS[0] if span == 0 else BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))]

    return "".join(map(bar, bins))


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None and math.isfinite(value)]
    return sum(given) / len(given) if given else None
