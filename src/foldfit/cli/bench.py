"""`foldfit bench`."""

import argparse
import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from foldfit.cli import problem as flags
from foldfit.errors import BadInput, BrokenPromise

if TYPE_CHECKING:
    from foldfit.bench.case import Case, Runs
    from foldfit.bench.results import Results
    from foldfit.cost.devices import Device

OF_ANY = {"what", "output", "force", "baseline", "repeat", "warmup", "budget", "predict", "costs"}
OF_STUDY = OF_ANY | {"scale", "device", "limits", "gpus"}
OF_FILE = OF_ANY | {"sizes", "limits", "policies", "solvers", "kernels"}
OF_RESULTS = {"what", "baseline"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("what", nargs="?", default="", metavar="study | FILE", help="study: every table of the study that foldfit grew from; a problem or "
        "plan file; with --baseline, results made before; without it, the problem of the flags")  # fmt: skip
    flags.add_arguments(parser)
    flags.add_ranks(parser, several=True)
    add("--sizes", default="", help="several, by commas: n_seq x n_res, as 128x256,512x384; n_res alone without an MSA")
    add("--policies", default="auto", help="by commas (default auto)")
    add("--solvers", default="chain", help="of auto in training, by commas (default chain)")
    add("--kernels", action="append", default=[], help="only these, by commas, or all; given again, the cases run with each set")
    add("--limits", default="", help="several in place of --memory, by commas, sizes or cards' names (of the study: V100-32GB,auto)")
    add("--scale", choices=("full", "tiny"), default="full", help="of the study: tiny is the same table in seconds on a CPU")
    add("--repeat", type=int, default=5, metavar="N", help="timed runs of a case, of which the median counts (default 5)")
    add("--warmup", type=int, default=1, metavar="N", help="runs before them, after the metered one (default 1)")
    add("--budget", type=float, default=inf, metavar="SECONDS", help="for the runs of a case: fewer are timed where "
        "they take longer, and a case whose run is promised to take longer by itself is only planned (default: no limit)")  # fmt: skip
    add("--predict", action="store_true", help="plan only (as for every device that is not this machine's)")
    add("--baseline", metavar="DIR", help="results made before: say what changed beyond noise")
    add("-o", "--output", metavar="DIR", help="results as .json, .csv and .md; called again, it goes on with the rows missing there")
    add("--force", action="store_true", help="start anew where DIR has results, of another machine or version too")


def main(args: argparse.Namespace) -> None:
    import msgspec

    from foldfit.bench.baseline import compare
    from foldfit.bench.results import read_results
    from foldfit.bench.tables import markdown

    baseline = read_results(Path(args.baseline)) if args.baseline else None
    before = Path(args.what)
    if baseline and args.what and args.what != "study" and (before.is_dir() or is_results(before)):
        only(args, OF_RESULTS, f"{args.what} with --baseline")
        results = read_results(before)
    else:
        results = made(args)
    found = compare(baseline, results) if baseline else None
    if args.json:
        out = msgspec.to_builtins(results)
        print(msgspec.json.encode(out | ({"baseline": msgspec.to_builtins(found)} if found else {})).decode())
    else:
        print(f"{markdown(results)}\n{found}" if found else markdown(results), end="\n" if found else "")
    broken = [r.key for r in results.results if r.status == "promise broken"]
    if broken:
        raise BrokenPromise(f"measured more than promised: {'; '.join(broken)}: this is a defect of foldfit; please report it")


def is_results(path: Path) -> bool:
    from foldfit.bench.results import looks_like_results

    return path.is_file() and looks_like_results(path)


def only(args: argparse.Namespace, taken: set[str], what: str) -> None:
    """Raises BadInput for a flag that would make no difference."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, default in vars(parser.parse_args([])).items():
        if name not in taken and getattr(args, name) != default:
            raise BadInput(f"--{name.replace('_', '-')} has no place with {what}: leave it out")


def made(args: argparse.Namespace) -> "Results":
    """The experiment, planned and run; what is there already, read."""
    from foldfit.bench.results import NAMES
    from foldfit.bench.runner import bench, header
    from foldfit.cli import import_torch

    if args.repeat < 1 or args.warmup < 0 or not args.budget > 0:
        raise BadInput(f"--repeat {args.repeat} --warmup {args.warmup} --budget {args.budget}: expected at least 1, at least 0, above 0")
    cases, device, here, runs = asked(args)
    name = "study" if args.what == "study" else "bench"
    if here:
        import_torch()
    head = header(name, args.scale, device, here)
    folder = Path(args.output) if args.output else None
    for other, (file, *_) in NAMES.items():
        if folder and other != name and (folder / file).exists():
            raise BadInput(f"{folder} has {file}, of another experiment: give another -o")
    if args.costs:  # other costs, other figures
        cases = [replace(case, key=f"{case.key} by {args.costs}") for case in cases]
    tell = (lambda key: print(f"\r{key}\033[K", end="", file=sys.stderr)) if sys.stderr.isatty() else None
    results = bench(cases, head, device, here, folder, runs, tell, ranks_of(device) if here else 1, args.force)
    if tell:
        print("\r\033[K", end="", file=sys.stderr)
    return results


def asked(args: argparse.Namespace) -> "tuple[list[Case], Device, bool, Runs]":
    """Cases, their device, whether it is here, how often they run."""
    import msgspec

    from foldfit.bench import study
    from foldfit.bench.case import Runs
    from foldfit.bench.sweep import Sweep, read_problem, sized
    from foldfit.cost.devices import find_device

    runs = Runs(args.repeat, args.warmup, args.budget)
    gpus = flags.gpus_of(args.gpus)
    if len(gpus) > 1 and args.axial is not None:
        raise BadInput("--axial with several --gpus: each number of them shares one sample")
    if args.what == "study":
        only(args, OF_STUDY, "the study")
        device = replace(flags.device_of(args.device)[0], costs=args.costs)
        own, v100 = device.memory - device.reserved, find_device("V100-32GB")
        names = args.limits.split(",") if args.limits else ["auto"]
        limits = {name: limit_of(name, device) for name in names}
        if not args.limits and args.scale == "full" and v100.memory - v100.reserved < own:
            limits = {"V100-32GB": v100.memory - v100.reserved} | limits
        cases = study.cases(args.scale, device.name, limits)
        chosen = [c for c in cases if c.problem.world in gpus] if args.gpus else list(cases)
        if not chosen:
            raise BadInput(f"--gpus {args.gpus}: the study has rows of {', '.join(map(str, study.GPUS))} GPUs")
        return chosen, device, args.device in ("cpu", "cuda") and not args.predict, runs
    if args.what:
        only(args, OF_FILE, args.what)
        problem = read_problem(Path(args.what))
        device = replace(find_device(problem.device), costs=args.costs)
        limits, measured = {f"{problem.memory} B": problem.memory}, not args.predict and here(device)
    else:
        if args.sizes:
            only(args, set(vars(args)) - {"n_seq", "n_res", "msa"}, "--sizes")
            args.n_res = 1
            args.n_seq = ",".join("1" for _ in args.stack.split(","))
        args.gpus = str(gpus[0])
        problem, device = flags.problem_of(args)
        limits, measured = {args.memory: problem.memory}, not args.predict and args.device in ("cpu", "cuda")
    if args.limits:
        limits = {name: limit_of(name, device) for name in args.limits.split(",")}
    sets = [() if text == "all" else tuple(text.split(",")) for text in args.kernels] or [()]
    sweep = Sweep(limits, tuple(args.policies.split(",")), tuple(args.solvers.split(",")), tuple(sets))
    problems = sized(problem, args.sizes) if args.sizes else [problem]
    if len(gpus) > 1:  # the numbers of --gpus take the place of the problem's own
        problems = [msgspec.structs.replace(p, world=n, axial=n) for p in problems for n in gpus]
    return list(sweep.cases(problems)), device, measured, runs


def limit_of(text: str, device: "Device") -> int:
    """Bytes of a size, or that a card of that name leaves to a run. Raises BadInput."""
    from foldfit.cost.devices import GPUS, key
    from foldfit.units import parse_memory

    card = next((d for d in GPUS if key(text) in map(key, (d.name, *d.aliases))), None)
    return card.memory - card.reserved if card else parse_memory(text, device.memory, device.reserved)


def ranks_of(device: "Device") -> int:
    """How many of this machine's device there are."""
    if device.name == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()


def here(device: "Device") -> bool:
    """Whether this machine has it."""
    if device.name == "cpu":
        return True
    import torch

    from foldfit.profile.here import cuda_device

    return torch.cuda.is_available() and cuda_device().name == device.name
