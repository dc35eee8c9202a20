"""Let fake CUDA tensors be indexed in a torch without CUDA, where the switch between devices is missing."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
"""c10::impl::device_guard_impl_registry: one pointer per device type."""
CPU, CUDA, NUM_TYPES = 0, 1, 2
"""Values of c10::DeviceType."""


@contextmanager
def cuda_guard() -> Iterator[None]:
    """Register the CPU's device guard, which does nothing, for CUDA as well; no-op in a torch with CUDA.

    Python's indexing asks for the guard of a tensor's device, also of a fake one, and raises without one. In
    a torch with CUDA but without a GPU FakeTensorMode does the same by itself.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so"))
    registry = (ctypes.c_void_p * NUM_TYPES).in_dll(library, REGISTRY)
    if registry[CUDA] is not None:
        yield
        return
    registry[CUDA] = registry[CPU]
    try:
        yield
    finally:
        registry[CUDA] = None
