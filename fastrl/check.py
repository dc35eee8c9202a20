"""What can be known to be wrong before a model is loaded: files, columns, folders, lengths, packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

from fastrl.build import choose_device, imported_reward
from fastrl.config import Config, EngineConfig, ModelConfig, RlConfig, SftConfig, refuse
from fastrl.data.problems import Problem, load_problems
from fastrl.data.prompts import render_prompt
from fastrl.engine.vllm_adapter import unusable
from fastrl.policy.model import choose_attention
from fastrl.report.trackers import check_trackers

BUILT_IN_REWARDS = ("answer", "format", "transfer")
WEIGHT_FILES = ("*.safetensors", "*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
PROMPTS_MEASURED = 64


def check_config(config: Config) -> None:
    """Refuse what can't run, as early as it can be known.

    Raises:
        ValueError, FileNotFoundError: one line that names the field, what it takes and what it got.
    """
    device = choose_device(config.run)
    choose_attention(config.model, device)
    if isinstance(config, SftConfig):
        check_model("model", config.model)
        load_tokenizer("model", config.model)
        if not Path(config.data.path).is_file():
            raise FileNotFoundError(f"[data] path: expected an existing file, got {config.data.path!r}")
        return
    check_rewards(config)
    check_engine("engine", config.engine)
    if config.uses_transfer:
        check_engine("transfer.engine", config.receiver_engine)
    check_trackers(config.run.report_to)
    problems = load_problems(config.data)
    if config.eval.path is not None:
        problems = problems + load_problems(
            replace(config.data, path=config.eval.path, limit=config.eval.limit)
        )
    check_lengths(config, problems)


def check_rewards(config: RlConfig) -> None:
    """Every named reward exists, one of them moves the policy, and what it needs is there."""
    for name in config.reward.functions:
        if name not in BUILT_IN_REWARDS:
            check_imported(name)
    if not any(config.reward.weights):
        refuse("reward", "weights", "at least one that is not 0", config.reward.weights)
    if config.uses_transfer and not config.transfer.receiver.path:
        refuse("transfer", "receiver.path", "a model folder, since reward.functions has transfer", "")


def check_engine(section: str, engine: EngineConfig) -> None:
    """The device and the package that an engine needs are there, the package in a version that fits."""
    devices = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if engine.device not in devices:
        refuse(section, "device", f"one of {devices}", engine.device)
    if engine.kind == "vllm" and (reason := unusable()):
        raise ValueError(f"[{section}] kind: vllm was asked for, and {reason}")


def check_imported(path: str) -> None:
    """A dotted path leads to a function; a module that is not there is the user's error."""
    try:
        imported_reward(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the module is there, and what it imports is not
        raise ValueError(
            f"[reward] functions: expected a module that can be imported, got {path!r}: {error}"
        ) from error


def check_lengths(config: RlConfig, problems: Sequence[Problem]) -> None:
    """The longest prompt and a full completion fit into the model, the receiver and the engine's cache."""
    longest = config.rollout.max_new_tokens
    check_fits(
        "model", config.model, problems, longest, "rollout.max_new_tokens", config.engine.max_batch_tokens
    )
    if config.uses_transfer:
        longest += config.transfer.slack_tokens
        names = "rollout.max_new_tokens + transfer.slack_tokens"
        receiver, room = config.transfer.receiver, config.receiver_engine.max_batch_tokens
        engine = "engine" if config.transfer.engine.kind == "same" else "transfer.engine"
        check_fits("transfer.receiver", receiver, problems, longest, names, room, engine)


def check_fits(
    section: str,
    model: ModelConfig,
    problems: Sequence[Problem],
    new_tokens: int,
    names: str,
    batch_tokens: int,
    engine: str = "engine",
) -> None:
    """Prompt + new_tokens <= what the model's positions and the engine's cache hold."""
    room = check_model(section, model)
    problem, prompt_tokens = longest_prompt(load_tokenizer(section, model), problems)
    need = prompt_tokens + new_tokens
    asked = (
        f"row {problem.index + 1}'s prompt of {prompt_tokens} tokens and {names} = {new_tokens} need {need}"
    )
    if room is not None and need > room:
        raise ValueError(f"[{section}] path: expected a model that holds {need} tokens, got {room}: {asked}")
    if need > batch_tokens:
        raise ValueError(f"[{engine}] max_batch_tokens: expected >= {need}, got {batch_tokens}: {asked}")


def longest_prompt(tokenizer: Any, problems: Sequence[Problem]) -> tuple[Problem, int]:
    """The prompt of most tokens, among the longest by characters."""

    def characters(problem: Problem) -> int:
        return sum(len(message["content"]) for message in problem.messages)

    candidates = sorted(problems, key=characters)[-PROMPTS_MEASURED:]
    lengths = [len(render_prompt(tokenizer, problem.messages)) for problem in candidates]
    most = max(range(len(lengths)), key=lengths.__getitem__)
    return candidates[most], lengths[most]


def check_model(section: str, model: ModelConfig) -> int | None:
    """The name leads to a checkpoint; returns the longest sequence its positions allow, where it says."""
    from transformers import AutoConfig

    if not model.path:
        refuse(section, "path", "a model folder or hub name", "")
    folder = Path(model.path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            refuse(section, "path", "a folder with config.json", model.path)
        if not any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
            refuse(section, "path", f"a folder with weights ({' or '.join(WEIGHT_FILES)})", model.path)
    else:
        check_reachable(section, model.path)
    try:
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"[{section}] path: expected a model folder or hub name, got {model.path!r}: {error}"
        ) from error
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_reachable(section: str, name: str) -> None:
    """A name that is no folder is looked up on the hub; without a connection, say so at once."""
    from huggingface_hub import constants, try_to_load_from_cache

    no_folder = (
        f"[{section}] path: expected a model folder or hub name, got {name!r}: there is no such folder"
    )
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise FileNotFoundError(no_folder)
    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except HTTPError:
        return  # it answers
    except URLError as error:
        raise FileNotFoundError(
            f"{no_folder}, and {constants.ENDPOINT} can't be reached ({error.reason})"
        ) from error


def load_tokenizer(section: str, model: ModelConfig) -> Any:
    """The checkpoint's tokenizer; its absence is the user's error, not a traceback."""
    from transformers import AutoTokenizer

    folder = Path(model.path)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        refuse(section, "path", f"a folder with a tokenizer ({', '.join(TOKENIZER_FILES)})", model.path)
    try:
        return AutoTokenizer.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"[{section}] path: expected a checkpoint with a tokenizer, got {model.path!r}: {error}"
        ) from error
