"""Stands in for `python -m fastrl.train` in tests of the sweep.

Writes metrics with known values:

    reward of step t = 100 * learning rate * t + seed

Fails if a file `trouble` is next to the sweep's folder and the learning rate is 0.003; takes long if a file
`slow` is there. Records its GPU, start and end.
"""

import json
import os
import sys
import time
from pathlib import Path

options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if word.startswith("--") and "=" in word)
folder, seed = Path(options["run.dir"]), int(options["run.seed"])
rate, num_steps = float(options.get("train.learning_rate", 0.001)), int(options.get("train.num_steps", 4))
shared = folder.parents[2]
began = time.time()
folder.mkdir(parents=True, exist_ok=True)
if rate == 0.003 and (shared / "trouble").exists():
    print("step 1 of 4")
    print("fastrl: [train] learning_rate: expected less trouble, got 0.003\n", file=sys.stderr)
    sys.exit(2)
if (shared / "slow").exists():
    time.sleep(0.5)
lines = [{"step": 0, "eval/avg@4": 0.25}]
lines += [{"step": step, "reward": 100 * rate * step + seed} for step in range(1, num_steps + 1)]
(folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
print(json.dumps({"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "began": began, "ended": time.time()}))
