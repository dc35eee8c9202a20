"""The counter of device work, against counts by hand."""

from __future__ import annotations

import pytest
import torch

from bench.device_counts import Counts, DeviceCounter
from bench.gpu_twin import GPU, gpu_twin

META = torch.device("meta")


def counted(work) -> Counts:
    with DeviceCounter("meta") as counter, counter.phase("work"):
        work()
    return counter.phases["work"]


def floats(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device=META)


def test_an_operator_reads_its_inputs_and_writes_its_result():
    a, b = floats(3, 5), floats(5, 7)
    found = counted(lambda: a @ b)
    assert (found.launches, found.allocations) == (1, 1)
    assert (found.bytes_read, found.bytes_written, found.allocated_bytes) == (4 * 50, 4 * 21, 4 * 21)


def test_views_and_empty_tensors_launch_nothing():
    a = floats(6, 4)
    found = counted(lambda: (a.t(), a[1:3], a.view(24), a.expand(2, 6, 4), torch.empty_like(a)))
    assert found == Counts(allocations=1, allocated_bytes=96)


def test_an_expanded_tensor_is_read_once():
    a = floats(8, 1).expand(8, 100)
    assert counted(lambda: a + a).bytes_read == 2 * 32


def test_casts():
    a = floats(10)
    found = counted(
        lambda: (a.to(torch.bfloat16), a.float(), a.double(), torch.empty(10, device=META).copy_(a))
    )
    assert found.casts == 2
    assert found.launches == 3  # float() is no copy


def test_in_place_operators_allocate_nothing():
    a, rows, ids = floats(10, 4), floats(2, 4), torch.empty(2, dtype=torch.int64, device=META)
    found = counted(lambda: (a.add_(1), a.zero_(), a.index_copy_(0, ids, rows)))
    assert (found.allocations, found.launches) == (0, 3)
    assert found.bytes_read == 160 + 0 + (32 + 16)
    assert found.bytes_written == 160 + 160 + 32


def test_rows_are_gathered_without_the_whole_table():
    table, ids = floats(1000, 4), torch.empty(3, dtype=torch.int64, device=META)
    found = counted(lambda: table.index_select(0, ids))
    assert (found.bytes_read, found.bytes_written) == (48 + 24, 48)


def test_an_out_tensor_is_not_read():
    a, out = floats(4, 4), floats(4, 4)
    assert counted(lambda: torch.mm(a, a, out=out)).bytes_read == 2 * 64


def test_phases_nest():
    a = floats(4)
    with DeviceCounter("meta") as counter, counter.phase("outer"):
        a + 1
        with counter.phase("inner"):
            a + 1
    assert (counter.phases["outer"].launches, counter.phases["inner"].launches) == (2, 1)


def test_the_host_waits_for_values_and_copies():
    with gpu_twin() as twin, twin.phase("work"):
        a = torch.empty(4, device=GPU)
        float(a[0])
        a.cpu()
        a.nonzero()
        a.tolist()
        torch.cuda.synchronize()
        torch.empty(4).to(GPU)  # the other way
        torch.empty(4).sum().item()  # only on the host
    found = twin.phases["work"]
    assert (found.host_reads, found.host_writes, found.host_bytes) == (5, 1, 16)


def test_operators_are_counted_in_inference_mode_too():
    with gpu_twin() as twin, torch.inference_mode(), twin.phase("work"):
        a = torch.empty(4, 8, dtype=torch.bfloat16, device=GPU)
        torch.nn.functional.linear(a, torch.empty(16, 8, dtype=torch.bfloat16, device=GPU)).float()
    found = twin.phases["work"]
    assert (found.launches, found.casts) == (2, 1)


def test_a_kernel_on_another_device_than_the_current_one_is_refused():
    from fastrl.kernels.linear_logprob import triton_rows

    with gpu_twin():
        logits = torch.empty(2, 8, device="cuda:1")
        kernel = triton_rows.floor_kernel[(2,)]
        with pytest.raises(
            RuntimeError, match="floor_kernel logits: expected a tensor on the current device cuda:0"
        ):
            kernel(logits=logits)
        with torch.cuda.device(1):
            kernel(logits=logits)
