"""How fast the chain solver is, and how close to its bound: 48 blocks of nine sub-modules with random options.

    python benchmarks/planner_speed.py --options 200 --json benchmarks/results/planner_speed.json

`compose`: pruning and both roundings of every block table; `chain`: the whole frontier with its bound from them; `solve`:
all of it, with the schedule and its exact simulation. The process pins itself to one core where the system allows it.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from foldfit.errors import DoesNotFit
from foldfit.planner import chain as chain_solver
from foldfit.planner.grid import SLOTS
from foldfit.planner.table import Chain, Forward, Record, Stage, Sub
from foldfit.planner.tables import Blocks, Tables

MB = 10**6
WRITTEN = (96, 96, 96, 36, 36, 36, 36, 36, 36)
"""MB of the state tensor that each sub-module writes: the pair (36) and the MSA (96) at 384 residues, 512 rows, fp16."""


def random_sub(rng: np.random.Generator, name: str, written: int, options: int) -> Sub:
    """More slices take less memory and more time; an option saves nothing and recomputes, or saves a part."""
    whole, kept, seconds = rng.uniform(500, 6000), rng.uniform(300, 1500), 0.02 * rng.uniform(0.3, 2)
    forward, record = [], []
    for k in range(options):
        part = rng.uniform() ** 2
        time_forward = seconds * (1 + rng.uniform(0, 0.5) * (1 - part) ** 3)
        inter, back = (whole * (0.02 + 0.98 * part) * rng.uniform(0.8, 1.2, 2) * (1, 2) * MB).astype(int).tolist()
        forward.append(Forward(inter, time_forward, k))
        share = 0.0 if rng.uniform() < 0.4 else rng.uniform(0.1, 1)
        saved = int(kept * share * MB)
        record.append(Record(saved + inter, saved, saved + back, time_forward, (3 - share) * time_forward, k))
    return Sub(name, written * MB, tuple(forward), tuple(record))


def random_chain(seed: int, blocks: int, options: int) -> Chain:
    rng = np.random.default_rng(seed)
    subs = tuple(random_sub(rng, f"sub{j}", written, options) for j, written in enumerate(WRITTEN))
    return Chain(((Stage("block", 132 * MB, subs), blocks),), 1000 * MB, 1500 * MB, 132 * MB)


T = TypeVar("T")


def timed(function: Callable[..., T], *args) -> tuple[float, T]:
    start = time.perf_counter()
    out = function(*args)
    return time.perf_counter() - start, out


def measure(chain: Chain, limit: int, slots: int) -> dict:
    grid = chain_solver.grid_within(chain, limit, slots)
    row: dict = {"limit": limit, "slots": grid.slots if grid else 0}
    try:
        row["solve"], found = timed(chain_solver.solve, chain, limit, slots)
    except DoesNotFit as error:
        return row | {"need": error.need}
    compose = frontier = 0.0
    for up in (True, False):
        both, tables = timed(lambda up=up: Tables(Blocks(chain), grid, up))
        again, _ = timed(tables.fill)
        compose, frontier = compose + both - again, frontier + again
    return row | {
        "compose": compose, "chain": frontier, "seconds": found.seconds, "bound": found.bound_seconds, "gap": found.gap,
        "peak": found.peak, "steps": len(found.schedule),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--options", type=int, default=200)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limits", default="4,6,8,12,16,24,40,80,140", help="in GB")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    chain = random_chain(args.seed, args.blocks, args.options)
    print("| limit GB | slots | compose ms | chain ms | solve ms | plan s | bound s | gap % | peak GB | steps |")
    print("|---" * 10 + "|")
    rows = []
    for limit in (round(float(text) * 1e9) for text in args.limits.split(",")):
        row = measure(chain, limit, args.slots)
        rows.append(row)
        if "need" in row:
            print(f"| {limit / 1e9:g} | {row['slots']} | does not fit: needs {row['need'] / 1e9:.3f} GB |")
            continue
        print(
            f"| {limit / 1e9:g} | {row['slots']} | {1e3 * row['compose']:.0f} | {1e3 * row['chain']:.0f} "
            f"| {1e3 * row['solve']:.0f} | {row['seconds']:.4f} | {row['bound']:.4f} | {100 * row['gap']:.2f} "
            f"| {row['peak'] / 1e9:.3f} | {row['steps']} |",
            flush=True,
        )
    if args.json:
        about = {k: v for k, v in vars(args).items() if k != "json"}
        about |= {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
        with open(args.json, "w") as f:
            json.dump({"benchmark": "planner_speed", "about": about, "rows": rows}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
