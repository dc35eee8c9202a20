"""A rank of a run; rank 1 is killed in the third step, and after the restart gets SIGTERM in the fourth.

torchrun faulty_rank.py RECIPE.yaml
"""

from __future__ import annotations

import os
import signal
import sys
import time

from fastrl import train
from fastrl.stages import rl

FIRST_START = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"


def main(path: str) -> int:
    real = rl.update_policy

    def disturbed(context, parts, rollouts, step):
        found = real(context, parts, rollouts, step)
        if context.ranks.rank == 1 and step == (2 if FIRST_START else 3):
            os.kill(os.getpid(), signal.SIGKILL if FIRST_START else signal.SIGTERM)
        return found

    rl.update_policy = disturbed
    if not FIRST_START and os.environ["RANK"] == "0":
        time.sleep(2)  # the restarted ranks must not rendezvous at the first start's address
    return train.main([path])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
