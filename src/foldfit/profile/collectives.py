"""Measures collectives between the ranks of this run, by the calls that the executor makes.

On CUDA they are timed as a step's device sees them: in a row, behind work that lets the host run ahead of them, which it does in a step
too. From their call to their end, one at a time, small ones took 0.1 ms on 2 H200, most of it the host's.
"""

import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from foldfit.cost.collectives import COLLECTIVES
from foldfit.cost.links import Collective
from foldfit.runtime.ranks import Ranks, all_gather, between, mark, reduce_scatter

SIZES = tuple(2**n for n in range(20, 31, 2))
"""Bytes."""
REPEATS, ENOUGH = 5, 0.3
"""Timed runs of a size, after one that is not counted; larger sizes are left out once so many seconds went into one."""
IN_A_ROW, AHEAD = 10, 10_000_000
"""Calls of a run on CUDA, and cycles that the device waits before them: 5 ms, in which the host calls them all."""


def call_of(name: str, ranks: Ranks, size: int, device: torch.device) -> Callable[[], object]:
    """`size`: bytes as in cost/collectives.py."""
    n = size // ranks.size * ranks.size
    x = torch.zeros(n, dtype=torch.uint8 if name in ("all_to_all", "all_gather", "broadcast", "pass_on") else torch.int32, device=device)
    x = x if x.dtype == torch.uint8 else x[: n // 4 // ranks.size * ranks.size]
    start, stop = ranks.own(len(x))
    first = dist.get_global_rank(ranks.group, 0)
    if name == "all_to_all":
        y = torch.empty_like(x)
        return lambda: dist.all_to_all_single(y, x, group=ranks.group)
    return {
        "all_gather": lambda: all_gather(x, x[start:stop], group=ranks.group),
        "reduce_scatter": lambda: reduce_scatter(x[start:stop], x, group=ranks.group),
        "all_reduce": lambda: dist.all_reduce(x, group=ranks.group),
        "broadcast": lambda: dist.broadcast(x, first, group=ranks.group),
        "pass_on": lambda: ranks.pass_on((x,), len(x)).wait(),
    }[name]


def seconds_of(call: Callable[[], object], ranks: Ranks, device: torch.device) -> float:
    """The median, of the rank that took longest."""
    call()
    timed = in_a_row if device.type == "cuda" else alone
    times = []
    for _ in range(REPEATS):
        dist.barrier(ranks.group)
        wait_for(device)
        times.append(timed(call))
    longest = torch.tensor(sorted(times)[len(times) // 2], dtype=torch.float64, device=device)
    dist.all_reduce(longest, dist.ReduceOp.MAX, group=ranks.group)
    return float(longest)


def alone(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_a_row(call: Callable[[], object]) -> float:
    """Of each."""
    torch.cuda._sleep(AHEAD)
    begin = mark(True)
    for _ in range(IN_A_ROW):
        call()
    end = mark(True)
    torch.cuda.synchronize()
    return between(begin, end) / IN_A_ROW


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_collectives(ranks: Ranks, device: torch.device, memory: int, sizes: tuple[int, ...] = SIZES) -> Iterator[Collective]:
    """Of every collective and size that needs no more than `memory` bytes."""
    for name in COLLECTIVES:
        for size in sizes:
            if 2 * size > memory:
                break
            seconds = seconds_of(call_of(name, ranks, size, device), ranks, device)
            yield Collective(name, ranks.size, size, seconds)
            if REPEATS * seconds > ENOUGH:
                break
