"""`foldfit plan`."""

import argparse
import sys
from pathlib import Path

from foldfit.cli import problem as flags
from foldfit.cli.outputs import refuse_to_overwrite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    flags.add_ranks(parser)
    add_policy(parser)
    parser.add_argument("-o", "--output", metavar="plan.json", help="write the plan")
    parser.add_argument("--force", action="store_true", help="overwrite it")


def add_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", default="auto", help="auto, none, small, large, chunk, or module:function (default auto)")
    parser.add_argument("--solver", default="chain", help="of auto: chain or study (default chain)")


def main(args: argparse.Namespace) -> None:
    from foldfit.planner.api import as_graphs, plan_problem
    from foldfit.units import format_bytes, format_seconds

    if args.output:
        refuse_to_overwrite([Path(args.output)], args.force)
    problem, device = flags.problem_of(args)
    plan = plan_problem(problem, device, args.policy, args.solver)
    if args.output:
        plan.save(args.output)
    room, peak = device.memory - device.reserved, plan.promised.peak_bytes
    if peak > room:
        print(f"note: {device.name} has {format_bytes(room)} for plans, and this one needs {format_bytes(peak)}", file=sys.stderr)
    print(plan.dumps() if args.json else plan)
    if not args.json and (faster := as_graphs(plan, device, args.policy, args.solver)):
        print(f"the host's launches decide: as CUDA graphs {format_seconds(faster)}, with --launch graph")
    if args.output and not args.json:
        start = f"torchrun --nproc-per-node {problem.world} -m foldfit" if problem.world > 1 else "foldfit"
        print(f"written to {args.output}; run it with: {start} run {args.output}")
