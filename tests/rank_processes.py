"""Starts ranks as torchrun would, forked as tests/forked.py does."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forked import CONTEXT, TIMEOUT_S

from fastrl.runtime.distributed import Ranks
from fastrl.train import run_stage


def on_ranks(size: int, function: Callable[..., Any], folder: Any, *arguments: Any) -> list[Any]:
    """function(ranks, *arguments) of every rank, which must be picklable; `folder` is for what they found."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    processes = [
        CONTEXT.Process(target=_run, args=(rank, size, port, str(folder), function, arguments), daemon=False)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT_S)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    found = [
        pickle.loads((folder / f"{rank}").read_bytes()) if (folder / f"{rank}").exists() else "hung"
        for rank in range(size)
    ]
    assert not hung, (hung, found)
    for kind, value in found:
        assert kind == "found", value
    return [value for _, value in found]


def stages(ranks: Ranks, *configs: Any) -> list[str]:
    """Run them one after the other; what each leaves behind."""
    return [str(run_stage(config, ranks)) for config in configs]


def placed(config: Any, folder: Path) -> Any:
    return replace(config, run=replace(config.run, dir=str(folder)))


def runs_of(configs: Mapping[str, Any], sizes: Sequence[int], folder: Path) -> dict[int, Path]:
    """Number of ranks -> the folder with their runs of all configurations, each under its name."""
    folders = {size: folder / f"ranks{size}" for size in sizes}
    for size, own in folders.items():
        own.mkdir()
        on_ranks(size, stages, own / "found", *(placed(each, own / name) for name, each in configs.items()))
    return folders


def _run(
    rank: int, size: int, port: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    try:
        found = ("found", function(Ranks.join(), *arguments))
    except BaseException:
        found = ("failed", traceback.format_exc())
    with open(f"{folder}/{rank}", "wb") as file:
        pickle.dump(found, file)
    if dist.is_initialized() and found[0] == "found":
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
