"""One rank or many: the few sums that data parallelism needs. With one rank every call is the identity."""

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
"""Long, since ranks may be late: one may evaluate, or sample its last chunk, while others wait. The watchdog
ends what hangs (run.hang_timeout_s), and a rank that dies is missed at once."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among those that torchrun started."""

    rank: int = 0
    size: int = 1
    checkpoint_group: dist.ProcessGroup | None = None
    """For the thread that writes checkpoints, and talks to those of other ranks while this one trains."""
    group: dist.ProcessGroup | None = None
    """The group of sum and gather; None: the default."""

    @classmethod
    def join(cls) -> Ranks:
        """Join torchrun's process group where there is one (gloo; nccl too where there are GPUs).

        With --max-restarts on several nodes torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: ranks of a
        second life may look for the first otherwise, and nodes do not agree on how often they restarted.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            store, rank, size = next(rendezvous("env://"))
            if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
                # torchrun's store outlives a restart, with the addresses of ranks that are dead
                store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
            )
        return cls(dist.get_rank(), dist.get_world_size(), gloo_group())

    @staticmethod
    def leave() -> None:
        """End the threads of the group that join made; a process that exits with them running may be aborted.

        A group of one is another's: vLLM makes one for itself.
        """
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def apart(self) -> Ranks:
        """Return the same ranks in a group of their own, for one more such thread: what two threads send
        through one group may cross. Every rank calls it."""
        return self if self.size == 1 else replace(self, group=gloo_group())

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Return the indices of this rank's items, in order: dealt out from the largest down, to and fro, so
        that ranks have about as much. With more ranks than items some have none."""
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
        """Return all ranks' values, rank by rank, on every rank."""
        return self._gather(values, self.group)

    def gather_in_background(self, values: Sequence[T]) -> list[T]:
        """As gather, through checkpoint_group: for the thread that writes checkpoints."""
        return self._gather(values, self.checkpoint_group)

    def _gather(self, values: Sequence[T], group: dist.ProcessGroup | None) -> list[T]:
        if self.size == 1:
            return list(values)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(values), group=group)
        return [value for part in parts for value in part]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over the ranks: losses have one global denominator, so no mean is taken."""
        if self.size == 1:
            return
        grads = []
        for parameter in parameters:
            if (
                parameter.grad is None
            ):  # a rank whose rollouts all have zero advantage takes part all the same
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        for grad, piece in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(piece.view_as(grad))

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def gloo_group() -> dist.ProcessGroup | None:
    """Make one more group of all ranks."""
    group: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    return group
