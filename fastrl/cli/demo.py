"""fastrl demo: RLTR in the tiny world, from nothing to a curve, on a laptop."""

from __future__ import annotations

from fastrl.config.flags import parse_flags
from fastrl.tiny.demo import DemoOptions, run_demo


def main(arguments: list[str]) -> int:
    """Make the world, measure, train, measure again, print both."""
    run_demo(parse_flags(DemoOptions, None, arguments, prog="fastrl demo"))
    return 0
