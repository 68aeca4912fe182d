"""`foldfit compare`."""

import argparse
import sys

from foldfit.cli import problem as flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    parser.add_argument("--policy", action="append", default=[], help="only these (default: all)")


def main(args: argparse.Namespace) -> None:
    import json

    from foldfit.planner.api import compare, frontier
    from foldfit.units import format_bytes, format_seconds

    problem, device = flags.problem_of(args)
    note = (lambda name: print(f"planning {name} ...", file=sys.stderr)) if sys.stderr.isatty() else None
    rows = compare(problem, device, args.policy, note)
    curve = frontier(problem, device)
    if args.json:
        print(json.dumps({
            "memory": problem.memory,
            "policies": [
                {"policy": r.policy, "fits": r.plan is not None}
                | ({"peak_bytes": r.plan.promised.peak_bytes, "seconds": r.plan.promised.seconds, "bound_seconds": r.plan.bound.seconds,
                    "gap": r.plan.bound.gap} if r.plan and r.plan.bound else {"need_bytes": r.error.need if r.error else 0})
                for r in rows
            ],
            "frontier": [{"bytes": b, "seconds": s, "bound_seconds": low} for b, s, low in curve],
        }))  # fmt: skip
        return
    print(f"limit {format_bytes(problem.memory)}")
    print(f"{'policy':10}{'fits':>6}{'peak':>14}{'time':>12}{'bound':>12}{'gap':>9}")
    for r in rows:
        if r.plan and r.plan.bound:
            p = r.plan
            print(f"{r.policy:10}{'yes':>6}{format_bytes(p.promised.peak_bytes):>14}{format_seconds(p.promised.seconds):>12}"
                  f"{format_seconds(r.plan.bound.seconds):>12}{100 * r.plan.bound.gap:>8.2f}%")  # fmt: skip
        else:
            print(f"{r.policy:10}{'no':>6}{format_bytes(r.error.need if r.error else 0):>14}")
    print("\nmemory-time frontier: what a limit buys")
    print(f"{'limit':>14}{'time':>12}{'bound':>12}{'ms per GiB more':>18}")
    for (b, s, low), after in zip(curve, [*curve[1:], None], strict=True):
        price = f"{(s - after[1]) * 1e3 / ((after[0] - b) / 2**30):.1f}" if after else ""
        print(f"{format_bytes(b):>14}{format_seconds(s):>12}{format_seconds(low):>12}{price:>18}")
