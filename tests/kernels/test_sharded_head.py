"""A head sharded by FSDP2: two gloo processes give the gradients of one process on both batches."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fastrl.ops import LossConfig, linear_grpo_loss, linear_logprob

VOCAB, WIDTH, TOKENS = 101, 8, 12  # 101 rows do not divide by two ranks
OPS, HOW = ("linear_grpo_loss", "linear_logprob"), ("root", "alone")


class Decoder(nn.Module):
    """A body and a head; the losses are given the head's weight, as trainers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, inputs, ids, mask, advantages, op):
        hidden = self.body(inputs).tanh()
        if op == "linear_logprob":
            return -linear_logprob(hidden, self.head.weight, ids).logprobs[mask].sum() / 10
        cu_seqlens = torch.tensor([0, 5, TOKENS], dtype=torch.int32)
        return linear_grpo_loss(
            hidden,
            self.head.weight,
            ids,
            cu_seqlens=cu_seqlens,
            advantages=advantages,
            loss_mask=mask,
            config=LossConfig(),
            denominator=10.0,
        ).loss


def batch(rank: int):
    generator = torch.Generator().manual_seed(rank)
    mask = torch.rand(TOKENS, generator=generator) > 0.3
    if rank == 1:
        mask[:] = False  # a rank without active tokens takes part
    return (
        torch.randn(TOKENS, WIDTH, generator=generator),
        torch.randint(0, VOCAB, (TOKENS,), generator=generator),
        mask,
        torch.randn(2, generator=generator),
    )


def one_process(op: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Decoder()
    for rank in range(2):
        model(*batch(rank), op).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def two_processes(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {(op, how): gradients(rank, op, how) for op in OPS for how in HOW}
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def gradients(rank: int, op: str, how: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Decoder()
    if how == "root":  # the head is gathered with the root, and stays so until the backward
        fully_shard(model.body)
        fully_shard(model)
    else:  # the head is sharded and nobody gathers it but the op
        fully_shard(model.head)
        fully_shard(model.body)
        assert isinstance(model.head.weight, DTensor)
    model(*batch(rank), op).backward()
    return {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(two_processes, (port, str(folder)), nprocs=2)
    return torch.load(folder / "gradients.pt", weights_only=True)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("how", HOW)
def test_gradients_of_two_ranks(op, how, of_two_ranks):
    found = of_two_ranks[op, how]
    for name, want in one_process(op).items():
        # FSDP divides what it gathered itself by the ranks; the op hands back the sum.
        want = want if (how, name) == ("alone", "head.weight") else want / 2
        torch.testing.assert_close(found[name], want, rtol=1e-5, atol=1e-7)
