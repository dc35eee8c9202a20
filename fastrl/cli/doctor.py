"""fastrl doctor [MODEL]: check this machine; with MODEL, also that engine and trainer agree."""

from __future__ import annotations

from fastrl.tools.doctor.machine import machine_report


def main(arguments: list[str]) -> int:
    """Print the checks; return 0 if all pass, 1 if training can't start or engine and trainer disagree."""
    if arguments:
        from fastrl.cli.doctor_model import examine  # needs torch; the checks below report it if missing

        return examine(arguments)
    healthy, text = machine_report()
    print(text)
    return 0 if healthy else 1
