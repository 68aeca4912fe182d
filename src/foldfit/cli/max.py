"""`foldfit max`."""

import argparse
import sys

from foldfit.cli import problem as flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser, sizes=False)
    flags.add_ranks(parser)
    parser.add_argument("--policy", default="auto", help="auto, none, small, large, chunk, or module:function (default auto)")
    parser.add_argument("--limits", default="8GiB,16GiB,24GiB,40GiB,80GiB", help="limits to try beside --memory, by commas")


def main(args: argparse.Namespace) -> None:
    import json

    import msgspec

    from foldfit.planner.lengths import longest_n_res
    from foldfit.units import format_bytes, parse_memory

    problem, device = flags.problem_of(args, n_res=1)
    limits = {parse_memory(text, device.memory, device.reserved) for text in args.limits.split(",") if text} | {problem.memory}
    out: list[dict[str, int]] = []
    known: dict[int, int] | None = {} if ":" not in args.policy else None
    for limit in sorted(limits):
        if sys.stderr.isatty():
            print(f"trying {format_bytes(limit)} ...", file=sys.stderr)
        out.append(
            {"memory": limit, "n_res": longest_n_res(msgspec.structs.replace(problem, memory=limit), device, args.policy, known=known)}
        )
    if args.json:
        print(json.dumps({"policy": args.policy, "longest": out}))
        return
    print(f"{'limit':>14}{'longest n_res':>16}")
    for row in out:
        print(f"{format_bytes(row['memory']):>14}{row['n_res'] or 'none':>16}")
