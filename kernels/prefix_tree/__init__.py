"""prefix_tree: merges sequences with common prefixes into a forest, on the host."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fastrl.kernels._checks import refuse
from fastrl.kernels._dispatch import Backend, Implementation, anywhere, cpu_only, pick
from fastrl.kernels.prefix_tree.forest import Ints, PrefixForest
from fastrl.kernels.prefix_tree.reference import prefix_tree_reference

OP = "prefix_tree"
Packed = tuple[Ints | torch.Tensor, Ints | torch.Tensor]
__all__ = ["PrefixForest", "prefix_tree"]


def _cpp(tokens: Ints, cu_seqlens: Ints) -> PrefixForest:
    from fastrl.kernels.prefix_tree.cpp_impl import prefix_tree_cpp

    return prefix_tree_cpp(tokens, cu_seqlens)


IMPLEMENTATIONS = (
    Implementation("cpp", _cpp, cpu_only),
    Implementation("reference", prefix_tree_reference, anywhere),
)


def prefix_tree(sequences: Sequence[Sequence[int]] | Packed, *, backend: Backend = "auto") -> PrefixForest:
    """Merge sequences into the forest of their distinct prefixes.

        num_slots = |{ sequence[:i] : sequence in sequences, 1 <= i <= len(sequence) }|

    Example: a prompt of L tokens and G rollouts of R tokens that differ from the first token on, each cut at
    k R / (K + 1) for k = 1 .. K. The G K cuts with G K L + G R K / 2 tokens become L + G R K / (K + 1) slots.

    Args:
        sequences: token lists, or a tuple of two arrays (NumPy, or torch on the CPU): all tokens [N] int64,
            and the sequences' offsets [S + 1] int32 or int64. A list of two arrays is two sequences.
            Sequences may be empty, equal, or prefixes of others.
    Raises:
        ValueError: a token is negative, or cu_seqlens does not rise from 0 to N.
        TypeError: tokens are not integers, or have another dtype.
    Cost: linear in the tokens, with a table lookup where sequences diverge; with arrays no Python work per
        token.
    """
    tokens, cu_seqlens = _packed(sequences)
    if tokens.size and int(tokens.min()) < 0:
        where = int(tokens.argmin())
        refuse(OP, "tokens", ">= 0", f"{tokens[where]} at {where}")
    chosen = pick(OP, backend, IMPLEMENTATIONS, torch.device("cpu"), torch.int64)
    forest: PrefixForest = chosen.run(tokens, cu_seqlens)
    return forest


def _packed(sequences: Sequence[Sequence[int]] | Packed) -> tuple[Ints, Ints]:
    """Return (tokens [N], cu_seqlens [S + 1]), contiguous int64."""
    if isinstance(sequences, tuple) and len(sequences) == 2:
        ids, bounds = sequences
        if isinstance(ids, np.ndarray | torch.Tensor) and isinstance(bounds, np.ndarray | torch.Tensor):
            tokens = _column("tokens", ids, np.dtype(np.int64))
            cu_seqlens = _column("cu_seqlens", bounds, np.dtype(np.int32), np.dtype(np.int64))
            _check_bounds(cu_seqlens, len(tokens))
            return tokens, cu_seqlens
    buffer, ends = array("q"), [0]
    for index, sequence in enumerate(sequences):
        _append(buffer, index, sequence)
        ends.append(len(buffer))
    return np.asarray(buffer), np.asarray(ends, dtype=np.int64)


def _host(name: str, values: Ints | torch.Tensor) -> Ints:
    if isinstance(values, torch.Tensor):
        if values.device.type != "cpu":
            refuse(OP, name, "a tensor on the CPU", f"one on {values.device}")
        return values.detach().numpy()
    return values


def _column(name: str, values: Ints | torch.Tensor, *dtypes: np.dtype[Any]) -> Ints:
    column = _host(name, values)
    if column.dtype not in dtypes:
        raise TypeError(f"[{OP}] {name}: expected {' or '.join(map(str, dtypes))}, got {column.dtype}")
    if column.ndim != 1:
        refuse(OP, name, "one dimension", f"shape {column.shape}")
    return np.ascontiguousarray(column, dtype=np.int64)


def _append(buffer: array[int], index: int, sequence: Sequence[int] | Ints | torch.Tensor) -> None:
    name = f"sequences[{index}]"
    if isinstance(sequence, np.ndarray | torch.Tensor):
        buffer.frombytes(_column(name, sequence, np.dtype(np.int32), np.dtype(np.int64)).tobytes())
        return
    try:
        buffer.fromlist(sequence if isinstance(sequence, list) else list(sequence))
    except TypeError as problem:
        raise TypeError(f"[{OP}] {name}: expected token ids, got {problem}") from problem
    except OverflowError as problem:
        raise ValueError(f"[{OP}] {name}: expected tokens below 2^63, got {problem}") from problem


def _check_bounds(cu_seqlens: Ints, num_tokens: int) -> None:
    if len(cu_seqlens) == 0:
        refuse(OP, "cu_seqlens", "shape (S + 1,)", cu_seqlens.shape)
    first, last = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if first != 0 or last != num_tokens:
        refuse(OP, "cu_seqlens", f"to run from 0 to {num_tokens}", f"{first} to {last}")
    falls = np.flatnonzero(np.diff(cu_seqlens) < 0)
    if len(falls):
        where = int(falls[0])
        refuse(OP, "cu_seqlens", "values that never fall", f"{cu_seqlens[where : where + 2]} at {where}")
