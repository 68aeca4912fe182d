"""How fast bytes go from one GPU to another, and what that does to a matrix product beside it: NCCL's point-to-point under several
settings, and PyTorch's symmetric memory, in which a rank copies from another's.

    torchrun --nproc-per-node 2 -m benchmarks.transports --json FILE      # what is there already stays; NCCL_... from the environment

Microseconds, the mean of 12 in a row, of the first rank.
"""

import argparse
import datetime
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric
from torch import Tensor

MIB = 2**19
"""Elements of bf16."""
SIZES = (1, 8, 64, 128, 256)


def timed(run: Callable[[], object], repeat: int = 12) -> float:
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    dist.barrier()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeat):
        run()
    end.record()
    end.synchronize()
    return round(1e3 * begin.elapsed_time(end) / repeat, 1)


def some(mib: int) -> Tensor:
    return torch.randn(mib * MIB, device="cuda", dtype=torch.bfloat16)


def to_others(mib: int) -> tuple[list[Tensor], list[Tensor]]:
    """What is received from and sent to each rank, nothing by itself."""
    rank, size = dist.get_rank(), dist.get_world_size()
    sent = [some(mib if r != rank else 0) for r in range(size)]
    return [torch.empty_like(x) for x in sent], sent


def beside(copy: Callable[[], object]) -> float:
    """A product of 8192 x 8192 while this goes on."""
    a, b = (some(128).view(8192, 8192) for _ in range(2))
    out, side = torch.empty_like(a), torch.cuda.Stream()

    def run() -> None:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            copy()
        torch.matmul(a, b, out=out)
        torch.cuda.current_stream().wait_stream(side)

    return timed(run, 6)


def nccl() -> dict[str, float]:
    found = {f"to each of the others, {mib} MiB": timed(partial(dist.all_to_all, *to_others(mib))) for mib in SIZES}
    size, rank = dist.get_world_size(), dist.get_rank()
    whole = some(128 * size)
    found["all-gather, 128 MiB of each"] = timed(lambda: dist.all_gather_into_tensor(whole, whole.view(size, -1)[rank]))
    return found | {"a product, 128 MiB to each of the others beside it": beside(partial(dist.all_to_all, *to_others(128)))}


def by_symmetric_memory() -> dict[str, float]:
    theirs = symmetric.empty(256 * MIB, device=torch.device("cuda"), dtype=torch.bfloat16)
    theirs.normal_()
    handle = symmetric.rendezvous(theirs, dist.group.WORLD.group_name)
    peer = handle.get_buffer((dist.get_rank() + 1) % dist.get_world_size(), (256 * MIB,), torch.bfloat16)
    own = some(256)
    found = {f"from the next, {mib} MiB": timed(lambda mib=mib: own[: mib * MIB].copy_(peer[: mib * MIB])) for mib in SIZES}
    every_other, dense = own.view(-1, 2, 2**18)[:, 0], peer[: 128 * MIB].view(-1, 2**18)
    found["from the next into every other row, 128 MiB"] = timed(lambda: every_other.copy_(dense))
    found["barrier"] = timed(lambda: handle.barrier())
    return found | {"a product, 128 MiB from the next beside it": beside(lambda: own[: 128 * MIB].copy_(peer[: 128 * MIB]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl", device_id=torch.device("cuda", int(os.environ["LOCAL_RANK"])))
    set_ = {k: v for k, v in os.environ.items() if k.startswith("NCCL_") and k != "NCCL_NVLS_ENABLE"}
    run = {"environment": set_, "a product alone": beside(lambda: None), "nccl": nccl(), "symmetric memory": by_symmetric_memory()}
    if dist.get_rank() == 0:
        head = {"device": torch.cuda.get_device_name(), "devices": dist.get_world_size(), "torch": torch.__version__}
        before = json.loads(args.json.read_text())["runs"] if args.json.exists() else []
        text = json.dumps(head | {"date": datetime.date.today().isoformat(), "unit": "us", "runs": [*before, run]}, indent=1)
        args.json.write_text(text + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
