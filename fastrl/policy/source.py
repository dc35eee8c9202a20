"""The source of a model's files: a folder, a hub name, or a converted .gguf file."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastrl.config import refuse
from fastrl.runtime.cache import cache_root, make_once, one_at_a_time, sync_all

NEEDED = {"gguf": "gguf>=0.10", "accelerate": "accelerate"}
"""Packages that transformers needs to read .gguf files, with pip's requirement for each."""
UNREADABLE = (ValueError, KeyError, IndexError, NotImplementedError, struct.error)
"""Errors that transformers raises for a damaged file or an unknown architecture."""


def model_source(path: str, section: str = "model") -> str:
    """Return the argument of from_pretrained for a model's path: the path, or the folder of a .gguf file.

    A .gguf file is converted once, into $FASTRL_CACHE/gguf/NAME-HASH: a plain Hugging Face folder with the
    tokenizer and float32 weights, dequantised by transformers. HASH is that of the file's bytes.

    Args:
        section: section of the configuration, for errors.
    Raises:
        FileNotFoundError: the .gguf file does not exist.
        ValueError: a package to read it is missing, transformers can't read it, or a folder's weights are
            outside the folder.
    """
    file = Path(path)
    if file.is_dir():
        check_weight_files(file, section)
    if file.suffix.lower() != ".gguf" or file.is_dir():
        return path
    if not file.is_file():
        raise FileNotFoundError(f"[{section}] path: expected an existing file, got {path!r}")
    about = file.stat()
    folder = cache_root() / "gguf" / f"{file.stem}-{digest(file.resolve(), about.st_size, about.st_mtime_ns)}"
    with one_at_a_time(folder):
        if not folder.is_dir():
            if missing := [wanted for name, wanted in NEEDED.items() if find_spec(name) is None]:
                install = " ".join(f"'{package}'" for package in missing)
                refuse(
                    section,
                    "path",
                    f"a folder or hub name, since .gguf needs packages not installed: pip install {install}",
                    path,
                )
            print(f"fastrl: converting {path} to {folder}, once", file=sys.stderr, flush=True)
            make_once(folder, lambda partial: convert(file, partial, section))
    return str(folder)


def check_weight_files(folder: Path, section: str) -> None:
    """Raise ValueError if a folder's weights are not regular files inside the folder.

    An index can name any path, and reading a device never ends. Links to regular files are allowed, since the
    hub's cache consists of them.
    """
    names = [path.name for path in folder.glob("*.safetensors")]
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if not index.is_file():
            refuse(section, "path", "a folder whose index of weights is a regular file", str(index))
        try:
            names += {*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"[{section}] path: expected a weight_map in {index}, got {type(error).__name__}: {error}"
            ) from error
    for name in sorted(names, key=str):
        if not isinstance(name, str) or name != Path(name).name or name in ("", "..") or "\0" in name:
            refuse(section, "path", f"weights inside {folder}", name)
        if (folder / name).exists() and not (folder / name).is_file():
            refuse(section, "path", f"weights in regular files of {folder}", name)


@lru_cache
def digest(file: Path, size: int, changed_ns: int) -> str:
    """Return the first 16 digits of a file's SHA-256; size and time are the key of its cache."""
    whole = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()[:16]


def convert(file: Path, folder: Path, section: str) -> None:
    """Write the model of a .gguf file as a plain Hugging Face folder."""
    options: dict[str, Any] = {"gguf_file": file.name}
    with without_bars():
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=torch.float32,
                attn_implementation="eager",
                trust_remote_code=False,
                use_safetensors=True,
                **options,
            )
        except UNREADABLE as error:
            raise ValueError(
                f"[{section}] path: expected a .gguf file that transformers reads, got {str(file)!r}: {error}"
            ) from error
        # the config describes the file's quantisation, but these weights are dequantised
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    sync_all(folder)


def without_bars() -> AbstractContextManager[Any]:
    """Return a context that hides progress bars unless stderr is a terminal."""
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
