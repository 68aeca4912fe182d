"""`foldfit compare`."""

import argparse
import sys

from foldfit.cli import problem as flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    flags.add_ranks(parser, several=True)
    parser.add_argument("--policy", action="append", default=[], help="only these (default: all)")


def main(args: argparse.Namespace) -> None:
    import json
    from math import isfinite

    from foldfit.errors import DoesNotFit
    from foldfit.planner.api import Outlook, compare, frontier
    from foldfit.units import format_bytes, format_seconds

    gpus = flags.gpus_of(args.gpus)
    if len(gpus) > 1:
        return compare_gpus(args, gpus)
    problem, device = flags.problem_of(args)
    note = (lambda name: print(f"planning {name} ...", file=sys.stderr)) if sys.stderr.isatty() else None
    rows = compare(problem, device, args.policy, note)
    try:
        outlook = frontier(problem, device)
    except DoesNotFit:
        outlook = Outlook([], 0.0, 0.0, None)
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
        print(f"\none GiB more would save {format_seconds(outlook.gib)} a run", end="")
        print(f"; the next card size, {format_bytes(larger.limit)}, {format_seconds(larger.saved)}" if larger else "")
    elif larger:
        print(f"\nnothing fits; in the next card size, {format_bytes(larger.limit)}, it would take {format_seconds(larger.seconds)}")
    print("\nmemory-time frontier: what a limit buys")
    print(f"{'limit':>14}{'time':>12}{'bound':>12}{'ms per GiB more':>18}")
    for (b, s, low), after in zip(curve, [*curve[1:], None], strict=True):
        price = f"{(s - after[1]) * 1e3 / ((after[0] - b) / 2**30):.1f}" if after else ""
        print(f"{format_bytes(b):>14}{format_seconds(s):>12}{format_seconds(low):>12}{price:>18}")


def compare_gpus(args: argparse.Namespace, gpus: list[int]) -> None:
    """Every policy on each number of ranks, all of them sharing the sample."""
    import json

    from foldfit.errors import BadInput
    from foldfit.planner.ranks import compare_ranks
    from foldfit.units import format_bytes, format_seconds

    if args.axial is not None:
        raise BadInput("--axial with several --gpus: each number of them shares one sample")
    args.gpus = "1"
    problem, device = flags.problem_of(args)
    out = []
    if not args.json:
        print(f"limit {format_bytes(problem.memory)} a rank; efficiency beside one rank under the same policy")
        print(f"{'policy':10}{'ranks':>6}{'fits':>6}{'peak':>14}{'time':>12}{'exposed':>12}{'efficiency':>12}{'longest n_res':>15}")
    for policy in args.policy or ["auto"]:
        note = (lambda n, name=policy: print(f"planning {name} on {n} ...", file=sys.stderr)) if sys.stderr.isatty() else None
        for r in compare_ranks(problem, device, gpus, policy, note):
            peak = r.plan.promised.peak_bytes if r.plan else r.error.need if r.error else 0
            row = {"policy": policy, "ranks": r.ranks, "fits": r.plan is not None, "peak_bytes" if r.plan else "need_bytes": peak}
            if r.plan:
                p = r.plan.promised
                row |= {"seconds": p.seconds, "exposed_seconds": p.exposed, "efficiency": r.efficiency}
            out.append(row | {"longest_n_res": r.longest})
            if args.json:
                continue
            line = f"{policy:10}{r.ranks:>6}{'yes' if r.plan else 'no':>6}{format_bytes(peak):>14}"
            if r.plan:
                share = f"{100 * r.efficiency:.1f} %" if r.efficiency else ""
                line += f"{format_seconds(r.plan.promised.seconds):>12}{format_seconds(r.plan.promised.exposed):>12}{share:>12}"
            print(f"{line:{72}}{r.longest or 'none':>15}")
    if args.json:
        print(json.dumps({"memory": problem.memory, "ranks": out}))
