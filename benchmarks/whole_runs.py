"""What whole runs of benchmarks/side_by_side.py took beyond the sum of their options, and those of `foldfit bench study` that the host
decides beyond that of their launches, into a cost database.

    python -m benchmarks.whole_runs benchmarks/results/side_by_side_h200.json --costs FILE [--planned-by FILE]
    python -m benchmarks.whole_runs --study benchmarks/results/study_h100/study.json --costs FILE

Of training steps as CUDA graphs that were planned by that database, or, with `--planned-by`, by another one ("modelled": by none), whose
plans are then made once more and their options summed by this one. Runs of the same problems that it has are replaced.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import msgspec

from foldfit.bench.results import read_results
from foldfit.cost.database import load_costs
from foldfit.cost.devices import find_device
from foldfit.planner.build import chain_of, make_plan
from foldfit.planner.clocks import seconds_by, two_clocks
from foldfit.planner.options import option_table
from foldfit.planner.simulate import simulate
from foldfit.problem import Problem, Stack

CLEARLY = 1.5
"""Times the device's seconds: there the host's are all that a run takes."""
STACKS = {"step": "evoformer", "frontier": "evoformer", "extra": "extra_msa"}
"""Of the parts of a side-by-side run."""


def problem_of(r: dict, device: str) -> Problem:
    """A training step's."""
    return Problem(
        stacks=(Stack(STACKS[r["what"]], r["blocks"], r["n_seq"]),), n_res=r["n_res"], mode="train", precision=r["precision"],
        parameters=r["precision"], dropout=True, memory=r["limit"], launch=r["launch"], device=device, device_type="cuda",
    )  # fmt: skip


def ratios(rows: list[dict], costs: str, planned_by: str) -> dict[str, float]:
    """Measured / the sum of the options by the database `costs`, its own factor left out."""
    name, factor = load_costs(costs).device, load_costs(costs).factor
    ours, theirs = (replace(find_device(name), costs=file) for file in (costs, planned_by))
    runs = {}
    for r in rows:
        if r["what"] not in STACKS or r["who"] != "foldfit" or "ms" not in r:
            continue
        problem = problem_of(r, name)
        plan = make_plan(option_table(problem, theirs))
        if abs(1e3 * plan.promised.seconds - r["promised_ms"]) > 1e-3 * r["promised_ms"]:
            continue  # planned otherwise, or by other costs
        own = simulate(chain_of(option_table(problem, ours)), plan.choices, plan.schedule).seconds / factor
        size = f"{r['blocks']} x {STACKS[r['what']]} {r['n_seq']}, {r['n_res']}"
        runs[f"{size}, train, {r['precision']}, {r['launch']}, {r['limit'] / 1e9:.3g} GB"] = r["ms"] / 1e3 / own
    return runs


def launched(study: Path, costs: str) -> dict[str, float]:
    """Of the study's policies on one GPU, whose plans do not depend on costs: measured / the sum of the options' host seconds, where
    those are clearly the larger."""
    results, factor = read_results(study), load_costs(costs).host_factor
    device, runs = replace(find_device(results.device), costs=costs), {}
    for r in results.results:
        if r.policy == "auto" or r.status != "measured" or not r.repeat or r.problem.world > 1:
            continue
        table = option_table(r.problem, device)
        plan = make_plan(table, r.policy)
        by_device, by_host = (seconds_by(table, clock, plan) for clock in (0, 1))
        if two_clocks(table) and by_host > CLEARLY * by_device:
            runs[f"{r.key.partition(' @ ')[0]}, {r.problem.precision}, eager"] = r.seconds * factor / by_host
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--study", type=Path, metavar="FILE")
    parser.add_argument("--costs", required=True, metavar="FILE")
    parser.add_argument("--planned-by", metavar="FILE")
    args = parser.parse_args()
    before = load_costs(args.costs)
    runs = ratios(json.loads(args.file.read_text())["rows"], args.costs, args.planned_by or args.costs) if args.file else {}
    by_host = launched(args.study, args.costs) if args.study else {}
    after = msgspec.structs.replace(before, runs=before.runs | runs, launched=before.launched | by_host)
    after.save(args.costs)
    print(f"factor {before.factor:.4f} -> {after.factor:.4f}, spread {before.spread:.4f} -> {after.spread:.4f}")
    print(f"the host's {before.host_factor:.4f} -> {after.host_factor:.4f}")
    for name, ratio in (after.runs | after.launched).items():
        print(f"{ratio:.4f}  {name}")


if __name__ == "__main__":
    main()
