"""Which card do I need: the longest protein that fits every card of the device table, by the planner's promise, as `foldfit max` finds it.

python benchmarks/cards.py           # benchmarks/results/cards.json, and docs/cards.md of it
python benchmarks/cards.py --page    # docs/cards.md alone, of the figures that are there
"""

import argparse
import json
from pathlib import Path

from foldfit._version import __version__
from foldfit.cost.devices import GPUS, Device
from foldfit.planner.lengths import longest_n_res
from foldfit.plans import write_text
from foldfit.problem import Mode, Problem, Stack

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "cards.json", ROOT / "docs" / "cards.md"
COLUMNS: dict[str, tuple[str, int, int, Mode]] = {
    "Evoformer, 128 rows": ("evoformer", 128, 48, "infer"),
    "512 rows": ("evoformer", 512, 48, "infer"),
    "Pairformer": ("pairformer", 0, 48, "infer"),
    "Evoformer training, 128 rows": ("evoformer", 128, 48, "train"),
    "training, 512 rows": ("evoformer", 512, 48, "train"),
    "extra MSA training, 1024 rows": ("extra_msa", 1024, 4, "train"),
}
"""(stack, rows, blocks, mode)"""

HEAD = """# Which card do I need

The longest protein that fits, by the planner's promise: 16-bit activations and parameters, batch 1, all the memory that the card has less
what CUDA itself takes; 48 blocks, of the extra MSA 4; training with dropout, without an optimizer. `python benchmarks/cards.py` ->
`benchmarks/results/cards.json` (foldfit {foldfit}), which is `foldfit max` for every card. Nothing here was run: promises are upper bounds
on allocated bytes, which held wherever they were measured ([performance](performance.md)). What fits may take long: the last residues of
a training step cost many passes of recompute, and `foldfit compare` says how much time less memory costs. For other rows, limits or
several GPUs: `foldfit max`.

"""


def longest(device: Device, stack: str, rows: int, blocks: int, mode: Mode) -> int:
    precision = "bf16" if "bf16" in device.peaks else "fp16"
    problem = Problem(
        stacks=(Stack(stack, blocks, rows),), n_res=1, precision=precision, parameters=precision, mode=mode,  # type: ignore[arg-type]
        dropout=mode == "train", device=device.name, device_type="cuda", memory=device.memory - device.reserved,
    )  # fmt: skip
    return longest_n_res(problem, device)


def page(found: dict) -> str:
    lines = [("card", "GiB", *COLUMNS)]
    lines += [(r["card"], f"{r['memory'] / 2**30:.0f}", *(r[name] for name in COLUMNS)) for r in found["rows"]]
    text = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return HEAD.format(**found) + "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="do not plan again")
    if not parser.parse_args().page:
        rows = []
        for device in sorted(GPUS, key=lambda d: (d.memory, d.name)):
            row = {name: longest(device, *column) for name, column in COLUMNS.items()}
            rows.append({"card": device.name, "memory": device.memory, **row})
            print(rows[-1], flush=True)
        write_text(RESULTS, json.dumps({"benchmark": "cards", "foldfit": __version__, "rows": rows}, indent=1) + "\n")
    write_text(PAGE, page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
