"""Runs a function on every rank of a gloo group, each rank a process."""

import datetime
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from foldfit.runtime.launch import leave


def on_ranks(size: int, work: Callable[..., None], *args: object) -> None:
    """`work(rank, *args)`, importable. Raises AssertionError with the tracebacks of all ranks that failed."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(rank_main, (size, work, args, folder), nprocs=size, join=False)
        while any(p.is_alive() for p in context.processes):
            for p in context.processes:
                p.join(0.1)
        said = [path.read_text() for path in sorted(Path(folder).glob("rank*"))]
        codes = [p.exitcode for p in context.processes]
    assert not any(codes), "\n".join([f"exit codes {codes}", *said])


def rank_main(rank: int, size: int, work: Callable[..., None], args: tuple, folder: str) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=datetime.timedelta(minutes=5))
    try:
        work(rank, *args)
    except BaseException:
        Path(folder, f"rank{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise SystemExit(1) from None
    leave()
