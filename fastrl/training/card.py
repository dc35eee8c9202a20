"""The model card of a checkpoint: what it is, how to load it, what it was trained on and how well it does."""

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
    "reward_model": "learning to judge traces of reasoning",
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
`AutoModel` loads the backbone; `rubric/heads.safetensors` turns the hidden state of the last token into the
logits of the rubric (`rubric.json`) and of the total score. fastrl does both, with inputs as in training:

```python
import torch
from fastrl.methods.tracelift.rubric_model import RubricModel

model = RubricModel.load("FOLDER", torch.device("cpu"), torch.float32)
```
"""
PARTS = """\
`trainer_state/` is for going on with the run only: leave it out where the model is copied to. `adapter/`, if
there is one, holds the adapters alone, as peft loads them; the weights of the folder itself have them merged.
"""


class ModelCard:
    """Writes the cards of one run's checkpoints. Data files are hashed once, when it is made."""

    def __init__(self, context: Context[Any]) -> None:
        self.config, self.run = context.config, context.run
        self.about = environment() if context.ranks.first else {}
        self.data = {
            file.path: sha256(Path(file.path))
            for file in data_files(self.config)
            if context.ranks.first and file.path
        }

    def text(self, step: int) -> str:
        """Return the card after so many steps; empty on every rank but the first, which writes it."""
        if not self.about:
            return ""
        config = self.config
        lines = read_metrics(self.run.metrics_file) if self.run.metrics_file.exists() else []
        judges = isinstance(config, RewardModelConfig)
        parts = [
            f"---\n{yaml.safe_dump(front_matter(config), sort_keys=False)}---\n",
            f"# {self.run.folder.name}, step {step}\n",
            f"`{config.model.path}` after {step} of {config.train.num_steps} steps of {STAGES[config.stage]} "
            "with fastrl.\n",
            "## Use\n",
            (REWARD_MODEL if judges else LANGUAGE_MODEL).replace("FOLDER", f"step-{step:06d}") + "\n" + PARTS,
            "## Metrics\n",
            "Of the last step at which each was measured.\n",
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
        """Return packages and their versions; fastrl's with its commit, if it runs from a checkout."""
        found = {"python": self.about["python"], **self.about["packages"]}
        if self.about["commit"]:
            found["fastrl"] += f" ({self.about['commit']})"
        return list(found.items())


def front_matter(config: Any) -> dict[str, Any]:
    """Return what model hubs and converters read: plain values."""
    found: dict[str, Any] = {"library_name": "transformers", "tags": ["fastrl", config.stage]}
    if not isinstance(config, RewardModelConfig):
        found["pipeline_tag"] = "text-generation"
    path = config.model.path
    if not Path(path).exists() and path.count("/") == 1:  # a hub name
        found["base_model"] = path
    return found


def last_metrics(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return name, value and step of each metric's last line, those of evaluations first."""
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
    lines = [names, ["---"] * len(names), *([each.replace("|", "\\|") for each in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def sha256(path: Path) -> str:
    """Return the digest of a file; of a folder of text, that of its files' names and digests."""
    if not path.is_dir():
        return digest(path)
    lines = "".join(f"{each.name} {digest(each)}\n" for each in sorted(path.glob("*.txt")))
    return hashlib.sha256(lines.encode()).hexdigest()
