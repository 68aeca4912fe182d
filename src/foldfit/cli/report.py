"""`foldfit report`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", nargs="+", metavar="DIR", help="with plan.json and measured.json, as foldfit run -o DIR leaves them")
    add("-o", "--output", metavar="FILE.html", help="(default: report.html in the first folder)")
    add("--force", action="store_true", help="overwrite the file")


def main(args: argparse.Namespace) -> None:
    import json

    from foldfit.cli.gather import run_of
    from foldfit.errors import BadInput
    from foldfit.plans import Plan, write_text
    from foldfit.report.html import render
    from foldfit.report.run import read_measured

    output = Path(args.output or Path(args.folders[0]) / "report.html")
    if output.exists() and not args.force:
        raise BadInput(f"{output} exists: give another file with -o, or --force")
    found = []
    for folder in map(Path, args.folders):
        for name in ("plan.json", "measured.json"):
            if not (folder / name).is_file():
                raise BadInput(f"{folder} has no {name}: make it with foldfit run plan.json -o {folder}")
        found.append((folder.resolve().name, Plan.load(folder / "plan.json"), read_measured(folder / "measured.json")))
    write_text(output, render([run_of(*run) for run in found]))
    print(json.dumps({"report": str(output), "runs": len(found)}) if args.json else f"{len(found)} runs in {output}")
