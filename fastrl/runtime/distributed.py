"""Collectives of data parallelism; with one rank every call is the identity."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")
COLLECTIVE_TIMEOUT = timedelta(days=7)
"""Long, since one rank may evaluate or sample while the others wait. The watchdog ends a hang
(run.hang_timeout_s), and a rank that dies fails the collective at once."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's rank, the number of ranks, and their process groups."""

    rank: int = 0
    size: int = 1
    checkpoint_group: dist.ProcessGroup | None = None
    """Separate group for the thread that writes checkpoints while the main thread trains."""
    group: dist.ProcessGroup | None = None
    """Group of sum and gather; None: the default group."""

    @classmethod
    def join(cls) -> Ranks:
        """Join torchrun's process group if there is one (gloo; also nccl with GPUs).

        With --max-restarts on several nodes torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: without it,
        restarted ranks may wait for ranks of the first start, and nodes may count restarts differently.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            store, rank, size = next(rendezvous("env://"))
            if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
                # torchrun's store survives a restart and still has the addresses of dead ranks
                store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
            )
        return cls(dist.get_rank(), dist.get_world_size(), gloo_group())

    @staticmethod
    def leave() -> None:
        """Destroy the process group; a process that exits with its threads running may be aborted.

        A group of size 1 is not ours: vLLM makes one for itself.
        """
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def apart(self) -> Ranks:
        """Return the same ranks with a new group, for another thread: two threads must not share one group.

        A collective: every rank calls it.
        """
        return self if self.size == 1 else replace(self, group=gloo_group())

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Return the sorted indices of this rank's items, balanced by size.

        Items are dealt from the largest down in snake order (0..n-1, n-1..0). With more ranks than items some
        ranks get none.
        """
        largest_first = sorted(range(len(sizes)), key=lambda index: -sizes[index])
        turns = [position % (2 * self.size) for position in range(len(sizes))]
        dealt = [min(turn, 2 * self.size - 1 - turn) for turn in turns]
        return sorted(index for index, rank in zip(largest_first, dealt, strict=True) if rank == self.rank)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over the ranks, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        return [float(value) for value in total]

    def gather(self, values: Sequence[T]) -> list[T]:
        """Return all ranks' values, in order of rank, on every rank."""
        return self._gather(values, self.group)

    def gather_in_background(self, values: Sequence[T]) -> list[T]:
        """Gather through checkpoint_group, for the thread that writes checkpoints."""
        return self._gather(values, self.checkpoint_group)

    def _gather(self, values: Sequence[T], group: dist.ProcessGroup | None) -> list[T]:
        if self.size == 1:
            return list(values)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(values), group=group)
        return [value for part in parts for value in part]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over the ranks, in place. No mean: the loss has one global denominator."""
        if self.size == 1:
            return
        grads = []
        for parameter in parameters:
            # a rank whose rollouts all have advantage 0 still takes part in the collective
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, piece in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(piece.view_as(grad))

    def wait(self) -> None:
        """Wait until every rank has reached this call."""
        if self.size > 1:
            dist.barrier()


def gloo_group() -> dist.ProcessGroup | None:
    """Create another gloo group of all ranks."""
    group: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    return group
