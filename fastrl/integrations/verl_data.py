"""Converts files of problems to verl's Parquet format.

python -m fastrl.integrations.verl_data train.jsonl train.parquet
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastrl.config import DataConfig
from fastrl.data.problems import Problem, load_problems


def verl_row(problem: Problem, data_source: str, ability: str, split: str) -> dict[str, Any]:
    """Return a row in verl's format; extra_info is passed to reward functions in addition to the answer."""
    return {
        "data_source": data_source,
        "prompt": [dict(message) for message in problem.messages],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": problem.solution},
        "extra_info": {"index": problem.index, "split": split, "question": problem.question},
    }


def write_parquet(
    data: DataConfig, out: Path, *, data_source: str = "fastrl", ability: str = "math", split: str = "train"
) -> int:
    """Write the problems of a JSONL, Parquet or CSV file for verl's data.train_files; return their number."""
    import pyarrow
    import pyarrow.parquet

    rows = [verl_row(problem, data_source, ability, split) for problem in load_problems(data)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return len(rows)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    print(f"{write_parquet(DataConfig(path=source), Path(target))} problems in {target}")
