"""What a collective takes within a CUDA graph, and what makes it slow or hang: one that ranks wait for, many in a row, products between.

    python benchmarks/captured_collectives.py --gpus 2 --json benchmarks/results/captured_collectives_h200.json    # about two minutes
    python benchmarks/captured_collectives.py --gpus 2 --device cpu                                                # no graphs: that it runs

Each case is a run of its own by torchrun, ended after `--patience` seconds: what hangs says so. Microseconds a collective, beyond the
same products without: `eager`, where the host calls it, `graph`, of replays. Cases: `plain`; `expandable`: PyTorch's expandable segments,
as foldfit's meter sets them, NCCL registering no buffers; `registering`: the same while it does, with which whole steps hung on H100s;
`unmixed`: NCCL without the event by which it keeps graphs and other calls apart.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from foldfit.runtime.graphs import CudaGraphs
from foldfit.runtime.meter import exact_allocator

CASES: dict[str, dict[str, str]] = {
    "plain": {"NCCL_GRAPH_REGISTER": "1"},
    "expandable": {"EXPANDABLE": "1", "NCCL_GRAPH_REGISTER": "0"},
    "unmixed": {"EXPANDABLE": "1", "NCCL_GRAPH_REGISTER": "0", "NCCL_GRAPH_MIXING_SUPPORT": "0"},
    "registering": {"EXPANDABLE": "1", "NCCL_GRAPH_REGISTER": "1"},
}
SIZES = (2**20, 25 * 2**20)
"""Bytes of a rank's part."""
IN_A_ROW, REPLAYS = 50, 5
"""Of them 2 on a CPU."""


def collectives(x: torch.Tensor, size: int) -> dict[str, Callable[[], None]]:
    """Of x, which every rank has: on the stream of the computation, and beside it."""
    out, whole = torch.empty_like(x), x.new_empty(size * x.numel())

    def beside() -> None:
        work = dist.all_to_all_single(out, x, async_op=True)
        assert work
        work.wait()

    return {
        "all_gather": lambda: dist.all_gather_into_tensor(whole, x),
        "all_to_all": lambda: dist.all_to_all_single(out, x),
        "all_to_all beside": beside,
    }


def seconds(run: Callable[[], object], cuda: bool) -> float:
    """The median of several, after one."""
    times = []
    for _ in range(REPLAYS + 1):
        dist.barrier()
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[REPLAYS // 2]


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """As the executor captures a part of a step."""
    graphs = CudaGraphs(torch.device("cuda", torch.cuda.current_device()))
    with graphs.rehearsing():
        run()
    with graphs.capturing():
        graphs.begin()
        try:
            run()
        finally:
            replay = graphs.end()
    return replay


def work(cuda: bool) -> None:
    """One rank of a case; the first one prints a row for each collective and size."""
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if os.environ.get("EXPANDABLE") and cuda:
        exact_allocator()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = "cuda" if cuda else "cpu"
    n, in_a_row = (2048, IN_A_ROW) if cuda else (64, 2)
    a = torch.randn(n, n, device=device)
    for size in SIZES:
        x = torch.randn(size // 4, device=device)
        for name, call in {"": lambda: None, **collectives(x, dist.get_world_size())}.items():

            def run(call: Callable[[], None] = call) -> None:
                for _ in range(in_a_row):
                    torch.mm(a, a)
                    call()

            took = {"eager": seconds(run, cuda)} | ({"graph": seconds(captured(run), cuda)} if cuda else {})
            if not name:
                alone = took
            elif dist.get_rank() == 0:
                row = {"collective": name, "bytes": size} | {k: round(1e6 * (t - alone[k]) / in_a_row, 1) for k, t in took.items()}
                print(json.dumps(row), flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--patience", type=float, default=40)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cuda = args.device == "cuda"
    if args.work:
        return work(cuda)
    head = {"device": torch.cuda.get_device_name() if cuda else "cpu", "torch": torch.__version__, "ranks": args.gpus}
    rows = []
    for case, more in CASES.items() if cuda else list(CASES.items())[:1]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(args.gpus), __file__, "--work"]
        command += ["--device", args.device]
        process = subprocess.Popen(command, env=os.environ | more, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            said, ended = process.communicate(timeout=args.patience)[0], f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its ranks
            said, ended = process.communicate()[0], f"ended after {args.patience:g} s"
        found = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        rows += [{"case": case} | row for row in (found if process.returncode == 0 else [*found, {"failed": ended}])]
        print(*rows[-max(1, len(found)) :], sep="\n", flush=True)
        if args.json:
            args.json.write_text(json.dumps(head | {"date": datetime.date.today().isoformat(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
