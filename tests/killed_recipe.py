"""Runs a recipe again and again. Every run but the last kills itself with SIGKILL, just before it does
something to a file for the n-th time. Prints the runs' exit codes.

python killed_recipe.py RECIPE.yaml [EVENT:END_OF_PATH:N ...]

EVENT is Python's audit event: open (to write), os.mkdir, os.rename (the path that is renamed), shutil.rmtree.
"""

import json
import os
import signal
import sys

from fastrl.config.load import load_config
from fastrl.runtime.errors import exit_code
from fastrl.train import run_recipe


def dies(event: str, end: str, calls: int) -> None:
    """From now on this process kills itself before the n-th such event."""
    left = calls

    def hook(name, arguments):
        nonlocal left
        if name != event or not str(arguments[0]).endswith(end):
            return
        if name == "open" and str(arguments[1])[0] not in "wax":
            return
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(config, death: str | None) -> int:
    """Exit code of a process that runs the recipe: -9 where it was killed."""
    child = os.fork()
    if not child:
        if death is not None:
            event, end, calls = death.split(":")
            dies(event, end, int(calls))
        os._exit(exit_code(lambda: 0 if run_recipe(config) else 1))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    recipe = load_config(sys.argv[1])
    print(json.dumps([run(recipe, death) for death in [*sys.argv[2:], None]]))
