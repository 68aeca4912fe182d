"""Which card do I need: the longest protein that fits every card of the device table, by the planner's promise.

    python benchmarks/cards.py --json benchmarks/results/cards.json

Prints a Markdown table. Nothing is run: promises are upper bounds on allocated bytes, and held on the card that was measured.
"""

import argparse
import json

from foldfit._version import __version__
from foldfit.cost.devices import GPUS, Device
from foldfit.planner.lengths import longest_n_res
from foldfit.problem import Problem, Stack

COLUMNS = {"Evoformer, 128 rows": ("evoformer", 128), "Evoformer, 512 rows": ("evoformer", 512), "Pairformer": ("pairformer", 0)}
"""Inference, 48 blocks; 16-bit activations and parameters, batch 1."""


def longest(device: Device, stack: str, rows: int) -> int:
    precision = "bf16" if "bf16" in device.peaks else "fp16"
    problem = Problem(
        stacks=(Stack(stack, 48, rows),), n_res=1, precision=precision, parameters=precision,  # type: ignore[arg-type]
        device=device.name, device_type="cuda", memory=device.memory - device.reserved,
    )  # fmt: skip
    return longest_n_res(problem, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print(f"| card | GiB | {' | '.join(COLUMNS)} |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    rows = []
    for device in sorted(GPUS, key=lambda d: (d.memory, d.name)):
        row = {name: longest(device, *column) for name, column in COLUMNS.items()}
        rows.append({"card": device.name, "memory": device.memory, **row})
        print(f"| {device.name} | {device.memory / 2**30:.0f} | {' | '.join(map(str, row.values()))} |", flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"benchmark": "cards", "foldfit": __version__, "rows": rows}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
