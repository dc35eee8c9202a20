"""A rank of a run: in its first life the second one is killed in the third step, in its second life told to
leave in the fourth.

torchrun faulty_rank.py RECIPE.yaml
"""

from __future__ import annotations

import os
import signal
import sys
import time

from fastrl import train
from fastrl.stages import rl

FIRST_LIFE = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"


def main(path: str) -> int:
    real = rl.update_policy

    def disturbed(context, parts, rollouts, step):
        found = real(context, parts, rollouts, step)
        if context.ranks.rank == 1 and step == (2 if FIRST_LIFE else 3):
            os.kill(os.getpid(), signal.SIGKILL if FIRST_LIFE else signal.SIGTERM)
        return found

    rl.update_policy = disturbed
    if not FIRST_LIFE and os.environ["RANK"] == "0":
        time.sleep(2)  # the other one must not meet where the first lives met
    return train.main([path])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
