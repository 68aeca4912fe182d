"""A training step of 48 Evoformer blocks under `auto`, promised against measured, at the memory that the peers take.

    python benchmarks/training.py --device H200 --costs costs.json --json benchmarks/results/training_h200.json

Costs other than those that ship:
foldfit profile --device cuda --mode train --precision bf16 --sizes 128x256,512x256,512x384 --costs costs.json
"""

import argparse
import datetime
import gc
import json
import sys
from dataclasses import replace

import torch

from foldfit.cost.devices import find_device
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.problem import Problem, Stack
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure

ROWS = [
    ("graph", 128, 256, 3.3e9), ("graph", 128, 256, 3.9e9), ("eager", 128, 256, 3.3e9), ("graph", 512, 256, 7.0e9),
    ("graph", 512, 384, 11.7e9), ("graph", 512, 384, 60e9),
]  # fmt: skip
"""(launch, n_seq, n_res, limit in bytes)"""


def run(launch: str, n_seq: int, n_res: int, limit: float, blocks: int, device) -> dict:
    problem = Problem(
        stacks=(Stack("evoformer", blocks, n_seq),), n_res=n_res, mode="train", precision="bf16", parameters="bf16", dropout=True,
        memory=int(limit), device=device.name, device_type="cuda", launch=launch,
    )  # fmt: skip
    plan = make_plan(option_table(problem, device))
    job = job_of(plan)
    m = measure(job.model, job.inputs, plan, repeat=3)
    return {
        "n_seq": n_seq, "n_res": n_res, "launch": launch, "policy": "auto", "limit": int(limit), "blocks": blocks, "costs": plan.costs,
        "promised_peak": m.promised_peak_bytes, "peak": m.peak_bytes, "promised_seconds": m.promised_seconds, "seconds": m.seconds,
        "spread": m.spread, "gap": plan.bound.gap if plan.bound else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="H200")
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--costs", default="")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device = replace(find_device(args.device), costs=args.costs)
    rows = []
    for row in ROWS:
        rows.append(run(*row, args.blocks, device))
        print(json.dumps(rows[-1]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if args.json:
        head = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "python": sys.version.split()[0]}
        with open(args.json, "w") as f:
            json.dump(head | {"date": datetime.date.today().isoformat(), "rows": rows}, f, indent=1)


if __name__ == "__main__":
    main()
