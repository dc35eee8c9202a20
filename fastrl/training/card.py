"""The model card of a checkpoint: base model, how to load it, metrics, data, versions and recipe."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastrl.config import RewardModelConfig
from fastrl.config.files import data_files
from fastrl.config.load import to_yaml
from fastrl.policy.checkpoint import digest
from fastrl.runtime.context import Context
from fastrl.runtime.redact import shortened
from fastrl.runtime.run import environment, read_metrics

STAGES = {
    "rl": "reinforcement learning",
    "sft": "supervised fine-tuning",
    "cpt": "continual pre-training",
    "reward_model": "reward-model training on reasoning traces",
}
NOT_SHOWN = ("time/", "sampling/", "drift/", "engine/", "alarm/")
LANGUAGE_MODEL = """\
```sh
vllm serve FOLDER
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
```
"""
REWARD_MODEL = """\
`AutoModel` loads the backbone; `rubric/heads.safetensors` maps the hidden state of the last token to the
logits of the rubric (`rubric.json`) and of the total score. fastrl does both, with inputs as in training:

```python
import torch
from fastrl.methods.tracelift.rubric_model import RubricModel

model = RubricModel.load("FOLDER", torch.device("cpu"), torch.float32)
```
"""
PARTS = """\
`trainer_state/` is only for resuming the run: leave it out when you copy the model. `adapter/`, if there is
one, holds only the adapters, in peft's format; the weights of the folder itself have them merged.
"""


class ModelCard:
    """Writer of the model cards of a run's checkpoints; it hashes the data files once, when created."""

    def __init__(self, context: Context[Any]) -> None:
        self.config, self.run = context.config, context.run
        self.about = environment() if context.ranks.first else {}
        self.data = {
            file.path: sha256(Path(file.path))
            for file in data_files(self.config)
            if context.ranks.first and file.path
        }

    def text(self, step: int) -> str:
        """Return the card after `step` steps; "" on all ranks but the first, which writes it."""
        if not self.about:
            return ""
        config = self.config
        lines = read_metrics(self.run.metrics_file) if self.run.metrics_file.exists() else []
        is_reward_model = isinstance(config, RewardModelConfig)
        parts = [
            f"---\n{yaml.safe_dump(front_matter(config), sort_keys=False)}---\n",
            f"# {self.run.folder.name}, step {step}\n",
            f"`{config.model.path}` after {step} of {config.train.num_steps} steps of {STAGES[config.stage]} "
            "with fastrl.\n",
            "## Use\n",
            (REWARD_MODEL if is_reward_model else LANGUAGE_MODEL).replace("FOLDER", f"step-{step:06d}")
            + "\n"
            + PARTS,
            "## Metrics\n",
            "Each at the last step at which it was measured.\n",
            table(("metric", "value", "step"), last_metrics(lines)),
            "## Data\n",
            table(("file", "SHA-256"), list(self.data.items())),
            "## Versions\n",
            table(("package", "version"), self.versions()),
            "## Recipe\n",
            f"```yaml\n{to_yaml(config)}```\n",
        ]
        return shortened("\n".join(parts))

    def versions(self) -> list[tuple[str, str]]:
        """Return packages and their versions; fastrl's with its commit if it runs from a checkout."""
        found = {"python": self.about["python"], **self.about["packages"]}
        if self.about["commit"]:
            found["fastrl"] += f" ({self.about['commit']})"
        return list(found.items())


def front_matter(config: Any) -> dict[str, Any]:
    """Return the card's YAML front matter, which model hubs read."""
    found: dict[str, Any] = {"library_name": "transformers", "tags": ["fastrl", config.stage]}
    if not isinstance(config, RewardModelConfig):
        found["pipeline_tag"] = "text-generation"
    path = config.model.path
    if not Path(path).exists() and path.count("/") == 1:  # a hub name
        found["base_model"] = path
    return found


def last_metrics(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return name, value and step of the last value of each metric, evaluations first."""
    last = {name: (value, line["step"]) for line in lines for name, value in line.items() if name != "step"}
    kept = [name for name, (value, _) in last.items() if value is not None and not name.startswith(NOT_SHOWN)]
    ordered = sorted(kept, key=lambda name: (not name.startswith("eval/"), name))
    return [(name, short(last[name][0]), str(last[name][1])) for name in ordered]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, or "None." for no rows."""
    if not rows:
        return "None.\n"
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file; for a folder, of the names and digests of its .txt files."""
    if not path.is_dir():
        return digest(path)
    lines = "".join(f"{file.name} {digest(file)}\n" for file in sorted(path.glob("*.txt")))
    return hashlib.sha256(lines.encode()).hexdigest()
