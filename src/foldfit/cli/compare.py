"""`foldfit compare`."""

import argparse
import sys

from foldfit.cli import problem as flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    parser.add_argument("--policy", action="append", default=[], help="only these (default: all)")


def main(args: argparse.Namespace) -> None:
    import json
    from math import isfinite

    from foldfit.errors import DoesNotFit
    from foldfit.planner.api import Outlook, compare, frontier
    from foldfit.units import format_bytes, format_seconds

    problem, device = flags.problem_of(args)
    note = (lambda name: print(f"planning {name} ...", file=sys.stderr)) if sys.stderr.isatty() else None
    rows = compare(problem, device, args.policy, note)
    try:
        outlook = frontier(problem, device)
    except DoesNotFit:
        outlook = Outlook([], 0.0, None)
    curve, larger = outlook.points, outlook.next_size
    if args.json:
        print(json.dumps({
            "memory": problem.memory,
            "policies": [
                {"policy": r.policy, "fits": r.plan is not None}
                | ({"peak_bytes": r.plan.promised.peak_bytes, "seconds": r.plan.promised.seconds, "bound_seconds": r.plan.bound.seconds,
                    "gap": r.plan.bound.gap, "host_bytes": r.plan.promised.host_bytes,
                    "exposed_seconds": r.plan.promised.exposed}
                   if r.plan and r.plan.bound else {"need_bytes": r.error.need if r.error else 0})
                for r in rows
            ],
            "frontier": [{"bytes": b, "seconds": s, "bound_seconds": low} for b, s, low in curve],
            "price_seconds_per_byte": outlook.price if isfinite(outlook.price) else None,
            "next_size": larger and {"bytes": larger.limit, "seconds": larger.seconds},
        }))  # fmt: skip
        return
    print(f"limit {format_bytes(problem.memory)}")
    host = f"{'host':>14}{'exposed':>12}" if problem.host_memory else ""
    print(f"{'policy':10}{'fits':>6}{'peak':>14}{'time':>12}{'bound':>12}{'gap':>9}{host}")
    for r in rows:
        if r.plan and r.plan.bound:
            p = r.plan
            away = f"{format_bytes(p.promised.host_bytes):>14}{format_seconds(p.promised.exposed):>12}" if host else ""
            print(f"{r.policy:10}{'yes':>6}{format_bytes(p.promised.peak_bytes):>14}{format_seconds(p.promised.seconds):>12}"
                  f"{format_seconds(r.plan.bound.seconds):>12}{100 * r.plan.bound.gap:>8.2f}%{away}")  # fmt: skip
        else:
            print(f"{r.policy:10}{'no':>6}{format_bytes(r.error.need if r.error else 0):>14}")
    if not curve:
        print("\nnothing fits, nor would it on the next larger card: foldfit max says what does")
        return
    if host:
        print("\nwithout host memory:", end="")
    if outlook.price == 0:
        print("\nmore memory would buy nothing")
    elif isfinite(outlook.price):
        print(f"\none GiB more would save up to {format_seconds(outlook.price * 2**30)} a run", end="")
        print(f"; the next card size, {format_bytes(larger.limit)}, {format_seconds(larger.saved)}" if larger else "")
    elif larger:
        print(f"\nnothing fits; in the next card size, {format_bytes(larger.limit)}, it would take {format_seconds(larger.seconds)}")
    print("\nmemory-time frontier: what a limit buys")
    print(f"{'limit':>14}{'time':>12}{'bound':>12}{'ms per GiB more':>18}")
    for (b, s, low), after in zip(curve, [*curve[1:], None], strict=True):
        price = f"{(s - after[1]) * 1e3 / ((after[0] - b) / 2**30):.1f}" if after else ""
        print(f"{format_bytes(b):>14}{format_seconds(s):>12}{format_seconds(low):>12}{price:>18}")
