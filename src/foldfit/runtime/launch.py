"""A run on several ranks, as torchrun starts them: one process a rank, its number in the environment."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import torch
import torch.distributed as dist

from foldfit.errors import BadInput, FoldfitError, MissingEnvironment
from foldfit.problem import Problem
from foldfit.runtime.graphs import leave_buffers_unregistered
from foldfit.runtime.measure import Measured
from foldfit.runtime.ranks import ALONE, TIMEOUT, Ranks


@contextlib.contextmanager
def joined(problem: Problem, verb: str = "run", what: str = "the plan") -> Iterator[Ranks]:
    """This process as one of the problem's ranks; errors inside say which one they are of. `verb`, `what`: of the command line, for errors.

    Raises BadInput where torchrun started another number of ranks, MissingEnvironment where one has no device of its own.
    """
    started, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if started != problem.world:
        raise BadInput(
            f"{what} is for {problem.world} ranks, {started} {'was' if started == 1 else 'were'} started: "
            + (f"torchrun --nproc-per-node {problem.world} -m foldfit {verb} ..." if problem.world > 1 else f"plan with --gpus {started}")
        )
    if problem.world == 1:
        yield ALONE
        return
    cuda = problem.device_type == "cuda"
    device = None
    if cuda:
        local, found = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
        if local >= found:
            raise MissingEnvironment(f"rank {rank} needs a device of its own, number {local}, and this host has {found}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        leave_buffers_unregistered()
    sys.excepthook = lambda kind, error, trace: sys.stderr.write(
        f"foldfit {verb}: rank {rank}: {kind.__name__}: {error}".split("\n")[0] + "\n"
    )
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT, device_id=device)
    mesh = dist.init_device_mesh(problem.device_type, (problem.world // problem.axial, problem.axial), mesh_dim_names=("data", "axial"))
    try:
        yield Ranks(mesh["axial"].get_group(), dist.group.WORLD)
    except FoldfitError as error:
        error.args = (f"rank {rank}: {error}",)
        raise
    leave()


def leave() -> None:
    """Ends the process group. A cycle of frames, which torch's own late imports make, may hold it still: gloo's threads would outlive
    the interpreter, which aborts then."""
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def worst(measured: Measured) -> Measured:
    """Of all ranks: the largest peaks and seconds, each rank's peak beside them."""
    if not dist.is_initialized():
        return measured
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, msgspec.to_builtins(measured))
    all_ = [msgspec.convert(m, Measured) for m in every]
    steps = tuple(max(of, key=lambda s: s.peak_bytes) for of in zip(*(m.steps for m in all_), strict=True))
    return msgspec.structs.replace(
        measured,
        peak_bytes=max(m.peak_bytes for m in all_),
        host_bytes=max(m.host_bytes for m in all_),
        seconds=max(m.seconds for m in all_),
        exposed=max(m.exposed for m in all_),
        activation_bytes=max(m.activation_bytes for m in all_),
        rank_peaks=tuple(m.peak_bytes for m in all_),
        steps=steps,
    )
