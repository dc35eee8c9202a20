"""What can be known to be wrong before a model is loaded: files, columns, folders, lengths, packages."""

from __future__ import annotations

from pathlib import Path

from fastrl.build import choose_device
from fastrl.check.model import check_fits, check_model, load_tokenizer
from fastrl.check.rl import check_rl
from fastrl.config import Config, GroupsConfig, RlConfig, SftConfig
from fastrl.policy.model import choose_attention

__all__ = ["check_config", "check_fits", "check_model", "load_tokenizer"]


def check_config(config: Config) -> None:
    """Refuse what can't run, as early as it can be known.

    Raises:
        ValueError, FileNotFoundError: one line that names the field, what it takes and what it got.
    """
    device = choose_device(config.run)
    if not isinstance(config, GroupsConfig):
        choose_attention(config.model, device)
    if isinstance(config, RlConfig):
        check_rl(config)
    if isinstance(config, SftConfig):
        check_sft(config)


def check_sft(config: SftConfig) -> None:
    check_model("model", config.model)
    load_tokenizer("model", config.model)
    if not Path(config.data.path).is_file():
        raise FileNotFoundError(f"[data] path: expected an existing file, got {config.data.path!r}")
