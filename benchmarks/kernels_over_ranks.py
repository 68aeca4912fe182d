"""Every kernel of a step of two blocks, and of a block of inference, over ranks: what waits for what, and what runs beside what.

    torchrun --nproc-per-node 4 -m benchmarks.kernels_over_ranks --json benchmarks/results/kernels_over_ranks_h100.json

Of the first rank and the last, by PyTorch's profiler: begin and duration in microseconds, stream, kernel. A graph's streams are its
branches. NCCL's kernels last from when a rank is there until all are done.
"""

import argparse
import datetime
import json
import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.ranks import Row, device_of, plan_of, problem_of
from foldfit.cost.devices import Device
from foldfit.runtime import launch
from foldfit.runtime.captured import CAPTURED
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure, once, split_inputs
from foldfit.runtime.meter import release_leftovers
from foldfit.runtime.ranks import Ranks

CASES = {
    "train384": Row("train", "bf16", 512, 384, 2, 6e9, "graph"), "train256": Row("train", "bf16", 128, 256, 2, 6e9, "graph"),
    "infer2048": Row("infer", "bf16", 128, 2048, 1),
}  # fmt: skip
NAMED = 60
"""Characters of a kernel's name."""


def kernels(run) -> list[list]:
    """Of one run, in order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    found = [e for e in events if e.get("ph") == "X" and e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    first = min(e["ts"] for e in found)
    return sorted([round(e["ts"] - first, 1), round(e["dur"], 1), e["args"].get("stream"), e["name"][:NAMED]] for e in found)


def case(name: str, row: Row, device: Device, ranks: Ranks) -> list[dict]:
    plan = plan_of(problem_of(row, device, ranks.size), device, row.policy)
    job = job_of(plan, ranks=ranks)
    m = measure(job.model, job.inputs, plan, repeat=5, warmup=1)
    state, masks = split_inputs(job.model, job.inputs)
    found = {
        "case": name, "rank": ranks.rank, "ranks": ranks.size, "seconds": m.seconds, "promised": m.promised_seconds,
        "choices": [str(c) for choices in plan.choices.values() for c in choices], "schedule": plan.schedule,
        "kernels": kernels(lambda: once(job.model, state, masks, plan, None)),
    }  # fmt: skip
    every: list[dict] = [{}] * ranks.size
    dist.all_gather_object(every, found, group=ranks.group)
    CAPTURED.clear()
    return [every[0], every[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    args = parser.parse_args()
    device, world, found = device_of("cuda", ""), int(os.environ["WORLD_SIZE"]), []
    with launch.joined(problem_of(CASES[args.only[0]], device, world)) as ranks:
        for name in args.only:
            found += case(name, CASES[name], device, ranks)
            release_leftovers()
        if ranks.is_first:
            head = {"device": torch.cuda.get_device_name(), "devices": world, "torch": torch.__version__}
            head |= {"date": datetime.date.today().isoformat(), "columns": ["begin us", "us", "stream", "kernel"]}
            args.json.write_text(json.dumps(head | {"cases": found}).replace("}, {", "},\n{") + "\n")


if __name__ == "__main__":
    main()
