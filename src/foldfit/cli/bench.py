"""`foldfit bench study`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("experiment", choices=("study",), help="every table of the study that foldfit grew from")
    add("--scale", choices=("full", "tiny"), default="full", help="tiny: the same table in seconds on a CPU (default full)")
    add("--device", default="cpu", help="rows are measured where it is this machine's (cpu or cuda), and predicted elsewhere (default cpu)")
    add("--limits", help="memory for auto, by commas (default: a V100-32GB's and the device's own)")
    add("--costs", default="", metavar="FILE", help="measured costs, or modelled")
    add("-o", "--output", metavar="DIR", help="study.json, study.csv and study.md; called again, it goes on with the rows missing there")
    add("--force", action="store_true", help="start anew where DIR has another machine's or version's results")


def main(args: argparse.Namespace) -> None:
    import msgspec

    from foldfit.bench.runner import bench
    from foldfit.bench.study import STUDY
    from foldfit.bench.tables import as_csv, markdown
    from foldfit.cli.problem import device_of
    from foldfit.cost.devices import find_device
    from foldfit.plans import write_text
    from foldfit.units import parse_memory

    device, _ = device_of(args.device)
    device = replace(device, costs=args.costs)
    here = args.device in ("cpu", "cuda")
    versions = {}
    if here:
        import torch

        versions["torch"] = str(torch.__version__)
    own, study = device.memory - device.reserved, find_device("V100-32GB")
    limits = (
        [parse_memory(t, device.memory, device.reserved) for t in args.limits.split(",")]
        if args.limits
        else [own, study.memory - study.reserved]
    )
    if args.scale == "tiny" and not args.limits:
        limits = [own]
    folder = Path(args.output) if args.output else None
    path = folder / "study.json" if folder else None
    if path and args.force:
        path.unlink(missing_ok=True)
    tell = (lambda key: print(f"\r{key}\033[K", end="", file=sys.stderr)) if sys.stderr.isatty() else None
    results = bench(STUDY, args.scale, device, here, [x for x in limits if x <= own], versions, path, tell)
    if folder:
        write_text(folder / "study.csv", as_csv(results))
        write_text(folder / "study.md", markdown(results))
    print(msgspec.json.encode(results).decode() if args.json else markdown(results), end="\n" if args.json else "")
