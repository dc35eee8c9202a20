"""Skipping of unlikely columns of the vocabulary in the gradients, with a bound of the error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastrl.kernels._gradients import Gradients
from fastrl.kernels._passes import Chunk

ROUNDING = 1e-6  # relative error of a float32 sum of a row's mass


@dataclass(frozen=True, slots=True)
class Skipped:
    """Number of skipped columns and bounds of the resulting errors; 0-d float64 tensors, which add up."""

    columns: Tensor
    grad_hidden: Tensor
    """Bound of the Frobenius norm of the error."""
    grad_weight: Tensor
    """Bound of the Frobenius norm of the error."""

    @staticmethod
    def zero(device: torch.device) -> Skipped:
        return Skipped(*torch.zeros(3, dtype=torch.float64, device=device).unbind())

    def __add__(self, other: Skipped) -> Skipped:
        return Skipped(
            self.columns + other.columns,
            self.grad_hidden + other.grad_hidden,
            self.grad_weight + other.grad_weight,
        )


def add_likely_columns(
    gradients: Gradients, chunk: Chunk, tiles: Sequence[tuple[slice, Tensor]], share: float
) -> Skipped:
    """Add a chunk's gradients G = d loss / d raw except in columns D, which hold at most `share` of sum |G|.

        |error of dX|_F <= max over D of |W_v| * sqrt(sum over rows of (sum over D of |G_rv|)^2)
        |error of dW|_F <= max over rows of |x_r| * sqrt(sum over D of (sum over rows of |G_rv|)^2)

    Costs one host sync, since the number of columns decides the products' shapes.
    """
    if len(chunk.rows) == 0:
        return Skipped.zero(chunk.rows.device)
    masses = torch.cat([_mass(grads, 0) for _, grads in tiles])
    rising, order = masses.sort()
    dropped = torch.zeros_like(masses, dtype=torch.bool)
    dropped[order] = rising.cumsum(0, dtype=torch.float64) <= share * rising.sum(dtype=torch.float64)
    kept = (~dropped).nonzero()[:, 0]
    likely = torch.cat([grads[:, ~dropped[columns]] for columns, grads in tiles], 1)
    gradients.add_columns(chunk, kept, likely, tiles)

    row_mass = torch.stack([_mass(grads, 1) for _, grads in tiles]).sum(0)
    row_dropped = (row_mass - _mass(likely, 1)).clamp(min=0) + ROUNDING * row_mass
    weight_norms = torch.where(dropped, gradients.weight_norms(), 0)
    largest_row = torch.linalg.vector_norm(chunk.operand, dim=1, dtype=torch.float32).amax()
    return Skipped(
        dropped.sum(dtype=torch.float64),
        weight_norms.amax().double() * torch.linalg.vector_norm(row_dropped.double()),
        largest_row.double() * torch.linalg.vector_norm(torch.where(dropped, masses, 0).double()),
    )


def _mass(grads: Tensor, dim: int) -> Tensor:
    accurate = torch.promote_types(grads.dtype, torch.float32)
    mass: Tensor = torch.linalg.vector_norm(grads, ord=1, dim=dim, dtype=accurate)
    return mass
