"""The rows of a result file of benchmarks/side_by_side.py as Markdown, a table for each part: what docs/performance.md shows.

python -m benchmarks.markdown benchmarks/results/side_by_side_h100.json [--only frontier ...]
"""

import argparse
import json
from itertools import groupby
from pathlib import Path

BYTES = ("limit", "peak", "promised_peak")
"""Shown in GB, of 1e9 bytes."""
LEFT_OUT = ("part", "what")


def cell(name: str, value: object) -> str:
    if name in BYTES and isinstance(value, int):
        return f"{value / 1e9:.2f}"
    return f"{value:.3g}" if isinstance(value, float) and value < 1000 else f"{value:.0f}" if isinstance(value, float) else str(value)


def table(rows: list[dict]) -> str:
    """Columns in the order in which they first appear; those that say the same everywhere in the line above."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in LEFT_OUT))
    same = {n for n in names if len(rows) > 1 and all(n in row and row[n] == rows[0][n] for row in rows)}
    head = ", ".join(f"{n} {cell(n, rows[0][n])}" for n in names if n in same)
    columns = [n for n in names if n not in same]
    lines = [f"| {' | '.join(n + (' GB' if n in BYTES else '') for n in columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell(n, row.get(n, '')) for n in columns)} |" for row in rows]
    return "\n".join([head + "\n"] * bool(head) + lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="attention, triangle, step, extra, check, frontier, infer, longest")
    args = parser.parse_args()
    found = json.loads(args.file.read_text())
    print(", ".join(f"{name} {value}" for name, value in found.items() if name != "rows"))
    for what, some in groupby(sorted(found["rows"], key=lambda r: r["what"]), key=lambda r: r["what"]):
        if not args.only or what in args.only:
            print(f"\n## {what}\n\n{table(list(some))}")


if __name__ == "__main__":
    main()
