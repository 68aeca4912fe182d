"""`foldfit profile`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from foldfit.cli import problem as flags

if TYPE_CHECKING:
    from foldfit.cost.database import Costs
    from foldfit.cost.devices import Device
    from foldfit.problem import Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    parser.add_argument("--gpus", default="1", metavar="N", help="the collectives between N ranks, which torchrun starts, and nothing else")
    parser.add_argument("--run", action="store_true", help="also run one plan: what a whole run takes beyond the sum of its parts")
    parser.add_argument("--again", action="store_true", help="measure also what the database has already")


def main(args: argparse.Namespace) -> None:
    """Measures what the planner may choose, and adds it to the database of --costs, after every sub-module: it can be stopped
    and called again."""
    import datetime
    import json

    import msgspec
    import torch

    from foldfit.cost.database import name_of, user_file
    from foldfit.errors import MissingEnvironment
    from foldfit.planner.options import option_table, worth_measuring
    from foldfit.profile.options import Bench

    path, args.costs = args.costs, "modelled"
    if args.gpus != "1":
        args.n_res, args.n_seq = args.n_res or 1, args.n_seq or "1"
    problem, device = flags.problem_of(args)
    path = Path(path or user_file(device.name))
    if problem.world > 1:
        return collectives(problem, device, path, args.json)
    if problem.device_type == "cuda" and not torch.cuda.is_available():
        raise MissingEnvironment(f"no {device.name} here: profile on the machine that has one, and plan anywhere with its file as --costs")
    costs = database(path, device)
    samples = {(s.key, tuple(sorted(s.axes.items())), s.rows): s for s in costs.samples}
    before, bench, of = len(samples), None, None
    todo = list(worth_measuring(option_table(problem, device)))
    for i, (stack, sub, option) in enumerate(todo):
        choice, axes = option.choice, stack.shapes.axes
        key = (name_of(sub.spec), choice.kernel, problem.precision, problem.launch), tuple(sorted(axes.items())), choice.rows
        if key not in samples or args.again:
            if bench is None or of is not sub:
                bench, of = None, sub  # the last one's tensors first
                bench = Bench(problem, stack.shapes, sub.spec)
            if sys.stderr.isatty():
                print(f"\r{i + 1} of {len(todo)}: {sub.spec.name}, {choice.kernel}, {choice.rows} rows\033[K", end="", file=sys.stderr)
            samples[key] = bench.sample(choice)
        if i + 1 == len(todo) or todo[i + 1][1] is not sub:
            costs = msgspec.structs.replace(costs, samples=tuple(samples.values()), date=datetime.date.today().isoformat())
            costs.save(path)
    if args.run:
        costs = whole_run(problem, replace(device, costs=str(path)), costs)
        costs.save(path)
    out = {"costs": str(path), "samples": len(samples), "measured": len(samples) - before}
    print(json.dumps(out) if args.json else f"{out['measured']} options measured; {path} has {out['samples']}")


def database(path: Path, device: "Device") -> "Costs":
    """The one that is there, or an empty one. Raises BadInput for one of another device or other versions."""
    import torch

    from foldfit.cost.database import Costs, load_costs
    from foldfit.errors import BadInput

    versions = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    costs = load_costs(path) if path.exists() else Costs(device=device.name, versions=versions, date="")
    if (costs.device, costs.versions) != (device.name, versions):
        raise BadInput(f"{path} is of {costs.device}, {costs.versions}, this is {device.name}, {versions}: give another file as --costs")
    return costs


def collectives(problem: "Problem", device: "Device", path: Path, as_json: bool) -> None:
    """Measures them between the ranks of this run; the first one adds them to the database."""
    import datetime
    import json

    import msgspec
    import torch

    from foldfit.profile.collectives import measure_collectives
    from foldfit.runtime.launch import joined

    with joined(problem) as ranks:
        with ranks.together():
            costs = database(path, device) if ranks.is_first else None
        found = list(measure_collectives(ranks, torch.device(problem.device_type), problem.memory))
        with ranks.together():
            if costs:
                known = {(c.name, c.ranks, c.size): c for c in (*costs.collectives, *found)}
                date = datetime.date.today().isoformat()
                msgspec.structs.replace(costs, collectives=tuple(known[key] for key in sorted(known)), date=date).save(path)
        if ranks.is_first:
            rows = [msgspec.to_builtins(c) for c in found]
            print(json.dumps({"costs": str(path), "ranks": ranks.size, "collectives": rows}) if as_json else table(rows, path))


def table(found: list, path: Path) -> str:
    from foldfit.units import format_bytes, format_seconds

    lines = [f"{'collective':16}{'size':>12}{'time':>12}{'GB/s':>9}"]
    for c in found:
        speed = c["size"] / c["seconds"] / 1e9
        lines.append(f"{c['name']:16}{format_bytes(c['size']):>12}{format_seconds(c['seconds']):>12}{speed:>9.1f}")
    return "\n".join([*lines, f"written to {path}"])


def whole_run(problem: "Problem", device: "Device", costs: "Costs") -> "Costs":
    """The database with the seconds of one whole run over the sum of its options'."""
    import msgspec

    from foldfit.cost.database import corrections
    from foldfit.planner.api import plan_problem
    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure

    corrections.cache_clear()
    plan = plan_problem(problem, device)
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=3)
    sizes = " + ".join(f"{s.blocks} x {s.name} {s.rows}" for s in problem.stacks)
    name = f"{sizes}, {problem.n_res}, {problem.mode}, {problem.precision}, {problem.launch}"
    corrections.cache_clear()
    return msgspec.structs.replace(costs, runs=costs.runs | {name: measured.seconds * costs.factor / plan.promised.seconds})
