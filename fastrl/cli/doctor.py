"""fastrl doctor [MODEL]: what works on this machine; of a model, whether engine and trainer agree."""

from __future__ import annotations

from fastrl.tools.doctor.machine import machine_report


def main(arguments: list[str]) -> int:
    """Print the page; return 0 if all is well, 1 if training can't start or engine and trainer disagree."""
    if arguments:
        from fastrl.cli.doctor_model import examine  # needs torch; the page below says so if it is missing

        return examine(arguments)
    healthy, text = machine_report()
    print(text)
    return 0 if healthy else 1
