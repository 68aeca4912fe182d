"""`foldfit report`."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", nargs="+", metavar="DIR", help="with plan.json and measured.json, as foldfit run -o DIR leaves them, or with the "
        "results of foldfit bench -o DIR; two of a kind are compared, the first the baseline")  # fmt: skip
    add("-o", "--output", metavar="FILE.html", help="(default: report.html in the first folder)")
    add("--pictures", metavar="DIR", help="also write every picture as an SVG file")
    add("--peers", metavar="FILE", help="others on the same problem, measured: what benchmarks/side_by_side.py --json wrote")
    add("--force", action="store_true", help="overwrite the files")


def main(args: argparse.Namespace) -> None:
    import json
    from dataclasses import replace

    from foldfit.bench.results import NAMES, read_results
    from foldfit.cli.gather import run_of, sheet_of
    from foldfit.cli.outputs import refuse_to_overwrite
    from foldfit.errors import BadInput
    from foldfit.plans import Plan, write_text
    from foldfit.report import curves
    from foldfit.report.draw import alone
    from foldfit.report.html import page, pictures_of
    from foldfit.report.peers import peers_of, read_peers
    from foldfit.report.run import read_measured

    output = Path(args.output or Path(args.folders[0]) / "report.html")
    found, benches = [], []
    for folder in map(Path, args.folders):
        if any((folder / names[0]).is_file() for names in NAMES.values()):
            benches.append((folder.resolve().name, read_results(folder)))
            continue
        for name in ("plan.json", "measured.json"):
            if not (folder / name).is_file():
                raise BadInput(f"{folder} has no {name}: make it with foldfit run plan.json -o {folder}, or foldfit bench -o {folder}")
        plan, measured = Plan.load(folder / "plan.json"), read_measured(folder / "measured.json")
        if (measured["promised_peak_bytes"], measured["promised_seconds"]) != (plan.promised.peak_bytes, plan.promised.seconds):
            raise BadInput(f"{folder}: measured.json is of another plan than plan.json: run this one again, with --force")
        found.append((folder.resolve().name, plan, measured))
    refuse_to_overwrite([output], args.force)
    peers = [peers_of(plan, measured, read_peers(args.peers)) if args.peers else [] for _, plan, measured in found]
    if args.peers and not any(peers):
        raise BadInput(f"{args.peers} has no peer that ran the problem of one of these runs on its device")
    runs = [replace(run_of(*run), peers=beside) for run, beside in zip(found, peers, strict=True)]
    drawn = [pictures_of(run) for run in runs]
    overview = curves.plans(runs) if runs else ""
    first = benches[0][1] if len(benches) == 2 else None
    sheets = [sheet_of(name, results, first if i else None) for i, (name, results) in enumerate(benches)]
    files = {f"{i}-{run.name}-{name}.svg": svg for i, run in enumerate(runs, 1) for name, svg in drawn[i - 1].items()}
    files |= {"plans.svg": overview} if runs else {}
    files |= {
        f"{i}-{sheet.name}-scaling.svg": curves.scaling(sheet.series) for i, sheet in enumerate(sheets, len(runs) + 1) if sheet.series
    }
    if args.pictures:
        refuse_to_overwrite([Path(args.pictures) / name for name in files], args.force)
        for name, svg in files.items():
            write_text(Path(args.pictures) / name, alone(svg))
    write_text(output, page(runs, drawn, overview, sheets))
    out = {"report": str(output), "runs": len(runs), "benches": len(benches), "pictures": len(files)}
    print(json.dumps(out) if args.json else f"{len(runs)} runs, {len(benches)} benches, {len(files)} pictures in {output}")
