"""fastrl demo: train with RLTR in the tiny world, on a laptop."""

from __future__ import annotations

from fastrl.config.flags import parse_flags
from fastrl.tiny.demo import DemoOptions, run_demo


def main(arguments: list[str]) -> int:
    """Make the world, evaluate, train, evaluate again, and print both results."""
    run_demo(parse_flags(DemoOptions, None, arguments, prog="fastrl demo"))
    return 0
