"""One sample on several GPUs of a host, promised against measured, with one GPU beside them.

    for n in 1 2 4; do torchrun --standalone --nproc-per-node $n benchmarks/ranks.py --device H200 --json results/ranks_h200_$n.json; done

Rows: training of 48 Evoformer blocks and inference, under `auto`, eagerly, at a limit a GPU that every number of them can keep. Efficiency:
t1 / (N tN) of the same row; `exposed`: seconds between begin and end of the collectives that the computation waits for.
"""

import argparse
import datetime
import gc
import json
import os
import sys
from dataclasses import replace

import torch

from foldfit.cost.devices import Device, find_device
from foldfit.errors import DoesNotFit
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.problem import Problem, Stack
from foldfit.runtime.job import job_of
from foldfit.runtime.launch import joined, worst
from foldfit.runtime.measure import measure
from foldfit.runtime.ranks import Ranks

ROWS = [
    ("train", "bf16", 128, 256, 48, 12e9), ("train", "bf16", 512, 256, 48, 12e9), ("train", "bf16", 512, 384, 48, 12e9),
    ("train", "fp32", 512, 384, 48, 24e9), ("infer", "bf16", 128, 2048, 12, 16e9), ("infer", "bf16", 512, 2048, 12, 16e9),
    ("infer", "tf32", 128, 2048, 12, 32e9),
]  # fmt: skip
"""(mode, precision, n_seq, n_res, blocks, limit in bytes a GPU)"""
SMALL = [("train", "fp32", 16, 24, 2, 1e9), ("infer", "fp32", 16, 24, 2, 1e9)]
"""For a machine without GPUs: whether the script runs."""


def problem_of(row: tuple, device: Device, world: int) -> Problem:
    mode, precision, n_seq, n_res, blocks, limit = row
    return Problem(
        stacks=(Stack("evoformer", blocks, n_seq),), n_res=n_res, mode=mode, precision=precision,
        parameters={"tf32": "fp32"}.get(precision, precision), dropout=mode == "train", memory=int(limit), device=device.name,
        device_type="cpu" if device.name == "cpu" else "cuda", world=world, axial=world,
    )  # fmt: skip


def run(problem: Problem, device: Device, ranks: Ranks, policy: str) -> dict:
    try:
        plan = make_plan(option_table(problem, device), policy)
    except DoesNotFit as error:
        return {"does_not_fit": error.need}
    job = job_of(plan, ranks=ranks)
    m = worst(measure(job.model, job.inputs, plan, repeat=3, warmup=1))
    return {
        "promised_peak": m.promised_peak_bytes, "peak": m.peak_bytes, "rank_peaks": m.rank_peaks, "promised_seconds": m.promised_seconds,
        "seconds": m.seconds, "promised_exposed": m.promised_exposed, "exposed": m.exposed, "costs": plan.costs,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="H200")
    parser.add_argument("--costs", default="")
    parser.add_argument("--policy", nargs="+", default=["auto"], help="also the study's: small large chunk")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device, world = replace(find_device(args.device), costs=args.costs), int(os.environ.get("WORLD_SIZE", 1))
    table = SMALL if device.name == "cpu" else ROWS
    rows = []
    with joined(problem_of(table[0], device, world)) as ranks:
        for row in table:
            for policy in args.policy:
                names = ("mode", "precision", "n_seq", "n_res", "blocks", "limit")
                found = dict(zip(names, row, strict=True)) | {"ranks": world, "policy": policy}
                rows.append(found | run(problem_of(row, device, world), device, ranks, policy))
                if ranks.is_first:
                    print(json.dumps(rows[-1]), flush=True)
                gc.collect()
                if device.name != "cpu":
                    torch.cuda.empty_cache()
        if args.json and ranks.is_first:
            name = "cpu" if device.name == "cpu" else torch.cuda.get_device_name()
            head = {"device": name, "ranks": world, "torch": torch.__version__, "python": sys.version.split()[0]}
            with open(args.json, "w") as f:
                json.dump(head | {"date": datetime.date.today().isoformat(), "rows": rows}, f, indent=1)


if __name__ == "__main__":
    main()
