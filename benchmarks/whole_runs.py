"""What whole runs of benchmarks/side_by_side.py took beyond the sum of their options, into the cost database that they were planned by.

    python -m benchmarks.whole_runs benchmarks/results/side_by_side_h100.json --costs src/foldfit/cost/measured/H100.json

Of training steps as CUDA graphs. Runs of the same problems that the database has are replaced.
"""

import argparse
import json
from pathlib import Path

import msgspec

from foldfit.cost.database import Costs, load_costs


def corrected(costs: Costs, rows: list[dict]) -> Costs:
    """The database with measured / sum of the options of these rows; promises were made with its factor."""
    names, runs = {"step": "evoformer", "extra": "extra_msa"}, {}
    for r in rows:
        if r["what"] in names and r["who"] == "foldfit" and r.get("costs") == "measured":
            problem = f"{r['blocks']} x {names[r['what']]} {r['n_seq']}, {r['n_res']}, {r['mode']}, {r['precision']}, {r['launch']}"
            runs[f"{problem}, {r['limit'] / 1e9:.3g} GB"] = r["ms"] * costs.factor / r["promised_ms"]
    return msgspec.structs.replace(costs, runs=costs.runs | runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--costs", required=True, metavar="FILE")
    args = parser.parse_args()
    before = load_costs(args.costs)
    after = corrected(before, json.loads(args.file.read_text())["rows"])
    after.save(args.costs)
    print(f"factor {before.factor:.4f} -> {after.factor:.4f}, spread {before.spread:.4f} -> {after.spread:.4f}")
    for name, ratio in after.runs.items():
        print(f"{ratio:.4f}  {name}")


if __name__ == "__main__":
    main()
