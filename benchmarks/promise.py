"""Promised against measured for the study's shapes: training at 48 blocks under every policy, inference at (128, 2048).

Inference runs 12 blocks: its peak is that of 48 but for the parameters, its time a quarter.

    python benchmarks/promise.py --device H200 --json benchmarks/results/promise_h200.json

Prints a Markdown table; a row that the planner says does not fit is printed with its need and is not run.
"""

import argparse
import datetime
import gc
import json
import sys

import msgspec
import torch

from foldfit.cost.devices import find_device
from foldfit.errors import DoesNotFit
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
from foldfit.problem import Problem, Stack
from foldfit.runtime.job import job_of
from foldfit.runtime.measure import measure

GIB = 2**30
TRAIN = [(128, 256), (512, 256), (512, 384)]


def rows(card: int):
    """(mode, precision, n_seq, n_res, policy, limit)."""
    for policy, limit in (("auto", 16 * GIB), ("auto", 64 * GIB), ("chunk", card)):
        yield "infer", "fp32", 128, 2048, policy, limit
    for n_seq, n_res in TRAIN:
        for precision in ("fp16", "bf16"):
            for policy, limit in (("none", card), ("small", card), ("large", card), ("auto", 12 * GIB), ("auto", 32 * GIB)):
                yield "train", precision, n_seq, n_res, policy, limit


def run(mode: str, precision: str, n_seq: int, n_res: int, policy: str, limit: int, blocks: int, device) -> dict:
    problem = Problem(
        stacks=(Stack("evoformer", blocks, n_seq),), n_res=n_res, mode=mode, precision=precision, parameters=precision,
        dropout=mode == "train", memory=limit, device=device.name, device_type="cpu" if device.name == "cpu" else "cuda",
    )  # fmt: skip
    row = {"mode": mode, "precision": precision, "n_seq": n_seq, "n_res": n_res, "blocks": blocks, "policy": policy, "limit": limit}
    try:
        plan = make_plan(option_table(problem, device), policy)
    except DoesNotFit as error:
        return row | {"fits": False, "need": error.need}
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=int(precision == "bf16"))
    row |= {"fits": True, "plan": plan.digest, "at": plan.promised.at, "gap": plan.bound.gap if plan.bound else None}
    return row | {k: v for k, v in msgspec.to_builtins(measured).items() if k != "steps"}


def line(row: dict) -> str:
    head = f"| {row['mode']} | {row['precision']} | {row['n_seq']}, {row['n_res']} | {row['policy']} | {row['limit'] / GIB:.0f} |"
    if not row["fits"]:
        return f"{head} does not fit: needs {row['need'] / 2**20:.0f} | | | | | |"
    promised, peak = row["promised_peak_bytes"], row["peak_bytes"]
    return (
        f"{head} {promised / 2**20:.0f} | {peak / 2**20:.0f} | {peak / promised:.4f} | {row['activation_bytes'] / 2**20:.0f} | "
        f"{row['promised_seconds'] * 1e3:.0f} | {row['seconds'] * 1e3:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="H200")
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device = find_device(args.device)
    print(
        "| mode | precision | n_seq, n_res | policy | limit GiB | promised MiB | measured MiB | ratio | activation MiB | modelled ms | ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    out = []
    for row in rows(int(device.memory - device.reserved)):
        out.append(run(*row, args.blocks if row[0] == "train" else args.blocks // 4, device))
        print(line(out[-1]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        if args.json:
            meta = {"torch": torch.__version__, "python": sys.version.split()[0], "date": datetime.date.today().isoformat()}
            with open(args.json, "w") as f:
                json.dump(meta | {"rows": out}, f, indent=1)


if __name__ == "__main__":
    main()
