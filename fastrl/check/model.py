"""Checks of a checkpoint before it is loaded: it exists, is safe to load, and its context is long enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from fastrl.check.template import check_template
from fastrl.config import CheckpointConfig, DataConfig, refuse
from fastrl.data.lengths import prompt_lengths
from fastrl.data.problems import Problem
from fastrl.data.templates import choose_template, set_variables, template_options
from fastrl.policy.source import model_source

WEIGHTS, PICKLED = "*.safetensors", ("*.bin", "*.pt", "*.pth", "*.ckpt")
CONVERSION = (
    'python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('FROM').save_pretrained('TO')\""
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def check_fits(
    section: str,
    model: CheckpointConfig,
    problems: Sequence[Problem],
    new_tokens: int,
    names: str,
    batch_tokens: int,
    engine: str = "engine",
    data: DataConfig | None = None,
) -> None:
    """Raise ValueError unless the longest prompt + new_tokens fits the model's context and engine's cache.

    Args:
        section: section of the configuration that holds `model`.
        names: what `new_tokens` is the sum of, for the message.
        batch_tokens: max_batch_tokens of the engine.
        engine: section of the engine.
        data: the section whose prompts these are; None: the model gets prompts of its own.
    """
    room = check_model(section, model)
    problem, prompt_tokens = longest_prompt(load_tokenizer(section, model, data), problems)
    need = prompt_tokens + new_tokens
    why = f"row {problem.index + 1}'s prompt of {prompt_tokens} tokens and {names} = {new_tokens} need {need}"
    if room is not None and need > room:
        raise ValueError(f"[{section}] path: expected a model that holds {need} tokens, got {room}: {why}")
    if need > batch_tokens:
        raise ValueError(f"[{engine}] max_batch_tokens: expected >= {need}, got {batch_tokens}: {why}")


def longest_prompt(tokenizer: Any, problems: Sequence[Problem]) -> tuple[Problem, int]:
    """Return the problem with the longest prompt, and its length in tokens."""
    lengths = prompt_lengths(tokenizer, problems)
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    return problems[longest], lengths[longest]


def check_model(section: str, model: CheckpointConfig) -> int | None:
    """Check that the path is a loadable checkpoint; return its context length, None if it has no limit.

    Raises: ValueError, FileNotFoundError: it is not.
    """
    from transformers import AutoConfig

    if not model.path:
        refuse(section, "path", "a model folder, hub name or .gguf file", "")
    source = model_source(model.path, section)
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            refuse(section, "path", "a folder with config.json", model.path)
        check_weights(section, folder)
    else:
        check_reachable(section, source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=model.trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"[{section}] path: expected a model folder or hub name, got {model.path!r}: {error}"
        ) from error
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_weights(section: str, folder: Path) -> None:
    """Raise ValueError unless the folder has safetensors: other formats are pickles, which can run code."""
    if any(folder.glob(WEIGHTS)):
        return
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if not pickled:
        refuse(section, "path", f"a folder with weights ({WEIGHTS})", str(folder))
    raise ValueError(
        f"[{section}] path: expected a folder with {WEIGHTS}, got {str(folder)!r} with {pickled[0]}, a "
        "pickle, which can run code when it is loaded; if you trust its source, convert it once: "
        + CONVERSION
    )


def check_reachable(section: str, name: str) -> None:
    """Raise FileNotFoundError if the name is not a folder and the hub can't be reached within 5 s."""
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
        return  # any answer shows that the hub is reachable
    except URLError as error:
        raise FileNotFoundError(
            f"{no_folder}, and {constants.ENDPOINT} can't be reached ({error.reason})"
        ) from error


def load_tokenizer(section: str, model: CheckpointConfig, data: DataConfig | None = None) -> Any:
    """Return the checkpoint's tokenizer with the chat template of `data`, or else of the model's own options.

    Raises ValueError, one line, if it has no tokenizer, or there is no such template.
    """
    from transformers import AutoTokenizer

    source = model_source(model.path, section)
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        refuse(section, "path", f"a folder with a tokenizer ({', '.join(TOKENIZER_FILES)})", model.path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=model.trust_remote_code)
    except OSError as error:
        raise ValueError(
            f"[{section}] path: expected a checkpoint with a tokenizer, got {model.path!r}: {error}"
        ) from error
    options, where = template_options(model, data), section if data is None else "data"
    if options is not None:
        choose_template(tokenizer, options, where)
    check_template(section, tokenizer)
    if options is not None:
        set_variables(tokenizer, options, where)
    return tokenizer
