"""Count what operators ask of a device, which may be fake: host reads, casts, memory, bytes, launches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
GATHERS = {aten.index_select.default, aten.index.Tensor, aten.gather.default, aten.embedding.default}
"""They read as many elements as they write, and the indices, but not the whole source."""
SCATTERS = {aten.index_copy_.default, aten.index_put_.default}
"""They write the elements that they are given, not the whole target."""
OVERWRITES = {*SCATTERS, *COPIES, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}
"""They do not read the tensor that they change."""
FUSED = {aten.rms_norm.default}
"""One kernel on a GPU, several operators elsewhere."""
WITHOUT_KERNEL = {
    aten._unsafe_view.default, aten._reshape_alias.default, aten.lift_fresh.default, aten.empty.memory_format,
    aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten.resize_.default,
}  # fmt: skip


@dataclass(slots=True)
class Counts:
    """Counts of the device work in one call of a phase."""

    host_reads: int = 0
    """Times that the host waits for the device: values read, copies to the host, synchronize()."""
    host_writes: int = 0
    """Copies from the host to the device."""
    casts: int = 0
    """Copies into another dtype."""
    allocations: int = 0
    """New storages on the device."""
    allocated_bytes: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    launches: int = 0
    """Operators and Triton kernels that compute or copy; an operator of several CUDA kernels is one."""
    host_bytes: int = 0
    """New storages on the host that copies from the device fill."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class DeviceCounter(TorchDispatchMode):
    """Counts the operators on tensors of one device type, between `phase`'s begin and end.

    Values don't exist on a fake device: a value that is read is 1, and nonzero finds every element.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.phases: dict[str, Counts] = {}
        """Counts of each phase's last call that asked for anything."""
        self.kernels = 0
        """Launches by `launch`, in all phases and outside."""
        self._running: list[Counts] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[Counts]:
        """Count what the block does, also for the phases around it."""
        counts = Counts()
        self._running.append(counts)
        try:
            yield counts
        finally:
            self._running.pop()
        if counts != Counts() or name not in self.phases:
            self.phases[name] = counts

    def add(self, **more: int) -> None:
        """Add to every running phase."""
        for counts in self._running:
            for name, value in more.items():
                setattr(counts, name, getattr(counts, name) + value)

    def launch(self, read: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        """Count one kernel that reads and writes these tensors as a whole."""
        self.kernels += 1
        self.add(launches=1, bytes_read=size_of(read), bytes_written=size_of(written))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks for a tensor's device or layout
            return func(*args, **kwargs)
        if func not in FUSED:  # in inference mode an operator that is made of others arrives whole
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        if stays_on_the_host(args, kwargs):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self.add(host_reads=int(self.is_here(args[0])))
            return one(args[0].dtype)
        if func is aten.nonzero.default:
            self.add(host_reads=int(self.is_here(args[0])), launches=1, bytes_read=size_of(args[:1]))
            return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
        result = func(*args, **kwargs)
        self._count(func, args, kwargs, result)
        return result

    def is_here(self, tensor: Tensor) -> bool:
        return tensor.device.type == self.device_type

    def _count(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        given, returned = tensors_in((args, kwargs)), tensors_in(result)
        changed = changed_by(func, args, kwargs)
        if not any(self.is_here(tensor) for tensor in (*given, *returned)):
            return
        for tensor in new_storages(given, returned):
            size = tensor.untyped_storage().nbytes()
            here = self.is_here(tensor)
            self.add(**({"allocations": 1, "allocated_bytes": size} if here else {"host_bytes": size}))
        if func.is_view or func in WITHOUT_KERNEL or not (returned or changed):
            return
        if func in COPIES and self._crosses(args, result):
            return
        read, written = bytes_of(func, given, returned, changed)
        self.add(launches=1, bytes_read=read, bytes_written=written)

    def _crosses(self, args: tuple[Any, ...], result: Tensor) -> bool:
        """Count a copy between dtypes or devices; return True for one from or to the host."""
        source = args[1] if len(args) > 1 else args[0]  # copy_(target, source), _to_copy(source)
        if source.device.type == result.device.type:
            self.add(casts=int(source.dtype != result.dtype))
            return False
        self.add(host_reads=int(self.is_here(source)), host_writes=int(self.is_here(result)))
        return True


def stays_on_the_host(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return True for real tensors, such as plans made with numpy, whose values are worth keeping."""
    tensors, device = tensors_in((args, kwargs)), torch.device(kwargs.get("device") or "cpu")
    real = all(not isinstance(t, FakeTensor) and t.device.type == "cpu" for t in tensors)
    return bool(tensors) and real and device.type == "cpu"


def bytes_of(
    func: Any, given: Sequence[Tensor], returned: Sequence[Tensor], changed: Sequence[Tensor]
) -> tuple[int, int]:
    """Return the bytes that an operator reads and writes; a dimension of stride 0 counts once."""
    known = {id(tensor) for tensor in changed}
    made = [tensor for tensor in returned if id(tensor) not in known]
    if func in GATHERS:
        return size_of(made) + size_of(given[1:]), size_of(made)
    left_out = known if func in OVERWRITES or func._schema.overload_name.endswith("out") else set()
    read = size_of([tensor for tensor in given if id(tensor) not in left_out])
    return read, size_of(given[-1:]) if func in SCATTERS else size_of([*made, *changed])


def changed_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the arguments that an operator writes to."""
    found: list[Tensor] = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors_in(args[position] if position < len(args) else kwargs.get(argument.name))
    return found


def new_storages(given: Sequence[Tensor], returned: Sequence[Tensor]) -> list[Tensor]:
    """Return one tensor of each storage that the operator has made."""
    known = {tensor.untyped_storage()._cdata for tensor in given}
    made = {tensor.untyped_storage()._cdata: tensor for tensor in returned}
    return [tensor for storage, tensor in made.items() if storage not in known]


def tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def size_of(tensors: Sequence[Tensor]) -> int:
    return sum(bytes_in(tensor) for tensor in tensors)


def bytes_in(tensor: Tensor) -> int:
    """Return the bytes that the tensor's elements take in memory."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else min(size, 1)
    return elements * tensor.element_size()


def one(dtype: torch.dtype) -> float | int | bool:
    """Return 1 as a Python number of this dtype."""
    if dtype is torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1
