"""Promised against measured: bytes, seconds, the choice among plans, smaller cards. What is planned: benchmarks/promise_cases.py.

    python benchmarks/promise.py plan --device H200 -o DIR    # anywhere; --costs FILE for others than the shipped ones
    python benchmarks/promise.py run -o DIR --minutes 8       # where the card is; call again for what is left
    python benchmarks/promise.py table -o DIR                 # Markdown, and the figures that were promised of the promises
    python benchmarks/promise.py reckon -o DIR --costs FILE   # what ran, by a database that was measured after it was planned

`-o` is a folder: plans/*.json and promise.json, which has every row that was planned, and its measurement once it ran.
"""

import argparse
import datetime
import hashlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from foldfit._version import __version__
from foldfit.cost.devices import find_device
from foldfit.plans import Plan, write_text

ORDER = ("peaks", "seconds", "choice", "cards")
REPEAT = {"peaks": 1, "seconds": 3, "choice": 3, "cards": 0}


def plan(args: argparse.Namespace) -> None:
    from benchmarks.promise_cases import TABLES

    device = replace(find_device(args.device), costs=args.costs)
    rows: list[dict] = []
    for table in args.tables:
        for p in TABLES[table](device):
            row = {"table": p.table, "key": p.key, "policy": p.policy, "limit": p.problem.memory, "fraction": p.fraction, "need": p.need}
            if p.plan:
                name = hashlib.sha256(p.key.encode()).hexdigest()[:12] + ".json"
                p.plan.save(args.output / "plans" / name)
                found = p.plan.promised
                row |= {
                    "plan": name, "promised_peak": found.peak_bytes, "promised_seconds": found.seconds, "promised_host": found.host_bytes,
                    "costs": p.plan.costs, "gap": p.plan.bound.gap if p.plan.bound else None,
                }  # fmt: skip
            rows.append(row)
            print(f"{row['key']}: {'planned' if p.plan else 'does not fit'}", file=sys.stderr)
            keep(args.output, {"benchmark": "promise", "foldfit": __version__, "planned_for": device.name, "rows": rows})


def keep(folder: Path, results: dict) -> None:
    write_text(folder / "promise.json", json.dumps(results, indent=1) + "\n")


def run(args: argparse.Namespace) -> None:
    import torch

    until, results = time.monotonic() + 60 * args.minutes, json.loads((args.output / "promise.json").read_text())
    today = datetime.date.today().isoformat()
    results |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "python": sys.version.split()[0], "date": today}
    todo = [r for table in args.tables for r in results["rows"] if r["table"] == table and r.get("plan") and "peak" not in r]
    for i, row in enumerate(todo):
        if time.monotonic() > until:
            print(f"{len(todo) - i} left: call again", file=sys.stderr)
            break
        start = time.monotonic()
        row |= measured(Plan.load(args.output / "plans" / row["plan"]), row["fraction"], REPEAT[row["table"]])
        print(f"{row['key']}: {row.get('failed') or line(row)} ({time.monotonic() - start:.1f} s)", flush=True)
        keep(args.output, results)


def measured(plan: Plan, reserve: int, repeat: int) -> dict:
    """Its bytes and seconds, the allocator being refused more than `reserve` bytes where that is given. Whatever goes wrong is the
    row's result: the others go on."""
    import torch

    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure
    from foldfit.runtime.meter import exact_allocator, release_leftovers
    from foldfit.runtime.offload import pool_of

    exact_allocator()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, reserve / total) if reserve else 1.0)
    try:
        job = job_of(plan)
        m = measure(job.model, job.inputs, plan, repeat=repeat, optimizer=job.optimizer)
        worst = max(m.steps, key=lambda s: s.peak_bytes)
        return {
            "peak": m.peak_bytes, "at": f"{worst.sub_module} of `{worst.step}`", "promised_at": plan.promised.at, "seconds": m.seconds,
            "spread": m.spread, "repeat": m.repeat, "host": m.host_bytes,
        }  # fmt: skip
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    finally:
        job = None
        pool_of.cache_clear()
        release_leftovers()


def used(row: dict) -> int:
    """Peak bytes; `held` has those of graphs in files of before they were measured with the rest."""
    return max(row["peak"], row.get("held", 0))


def line(row: dict) -> str:
    if not row.get("plan"):
        return f"does not fit: needs {row['need'] / 2**20:.0f} MiB"
    if "peak" not in row:
        return row.get("failed") or "not run"
    host = f", host {row['host'] / max(row['promised_host'], 1):.3f}" if row["promised_host"] else ""
    time = f", seconds {row['promised_seconds'] / row['seconds']:.3f} of {row['seconds'] * 1e3:.1f} ms" if row["repeat"] else ""
    return f"peak {used(row) / row['promised_peak']:.4f} of {row['promised_peak'] / 2**20:.0f} MiB{host}{time}"


def reckon(args: argparse.Namespace) -> None:
    from foldfit.planner.build import chain_of
    from foldfit.planner.options import option_table
    from foldfit.planner.simulate import simulate

    results = json.loads((args.output / "promise.json").read_text())
    device = replace(find_device(results["planned_for"]), costs=args.costs)
    for row in results["rows"]:
        if row.get("repeat"):
            p = Plan.load(args.output / "plans" / row["plan"])
            found = simulate(chain_of(option_table(p.problem, device), p.hosted), p.choices, p.schedule)
            row["reckoned_seconds"] = found.seconds
    keep(args.output, results)


def table(args: argparse.Namespace) -> None:
    results = json.loads((args.output / "promise.json").read_text())
    print(f"{results.get('device', 'not run yet')}, torch {results.get('torch')}, {results.get('date')}\n")
    for name in ORDER:
        print(f"## {name}\n\n| plan | limit MiB | promised MiB | measured MiB | ratio | promised ms | ms | promised / measured |")
        print("|---" * 8 + "|")
        for r in (r for r in results["rows"] if r["table"] == name):
            print(cells(r))
        print()
    print("\n".join(figures(results["rows"])))


def cells(r: dict) -> str:
    head = f"| {r['key'].partition(' ')[2]} | {r['limit'] / 2**20:.0f} |"
    if not r.get("plan"):
        return f"{head} does not fit: needs {r['need'] / 2**20:.0f} | | | | | |"
    head += f" {r['promised_peak'] / 2**20:.0f} |"
    if "peak" not in r:
        return f"{head} {r.get('failed', 'not run')} | | {r['promised_seconds'] * 1e3:.1f} | | |"
    ratio = f"{r['promised_seconds'] / r['seconds']:.3f}" if r["repeat"] else ""
    return (
        f"{head} {used(r) / 2**20:.0f} | {used(r) / r['promised_peak']:.4f} | {r['promised_seconds'] * 1e3:.1f} | "
        f"{r['seconds'] * 1e3:.1f} | {ratio} |"
    )


def figures(rows: list[dict]) -> list[str]:
    """What the promises are worth, as lines of text."""
    ran = [r for r in rows if "peak" in r]
    failed = [r["key"] for r in rows if "failed" in r]
    out = [f"{len(ran)} plans ran, {len(failed)} failed{': ' + '; '.join(failed) if failed else ''}"]
    if ran:
        above = sorted((r["promised_peak"] / used(r) for r in ran), reverse=True)
        hosts = [r["host"] / r["promised_host"] for r in ran if r["promised_host"]]
        broken = sum(x < 1 for x in above) + sum(x > 1 for x in hosts)
        out.append(f"peak: {broken} promises broken; promised / measured median {median(above):.4f}, most {above[0]:.4f}")
        if hosts:
            out.append(f"host memory: measured / promised {min(hosts):.4f} to {max(hosts):.4f} of {len(hosts)} plans")
    timed = [abs(r["promised_seconds"] / r["seconds"] - 1) for r in ran if r["table"] == "seconds" and r["costs"] == "measured"]
    if timed:
        out.append(
            f"time: {len(timed)} plans with measured costs, off by {100 * median(timed):.1f} % (median), {100 * max(timed):.1f} % (most)"
        )
    choice = [r for r in ran if r["table"] == "choice"]
    if choice:
        best = min(choice, key=lambda r: r["seconds"])
        for chosen in (r for r in choice if r["key"].endswith(" auto")):
            lost = 100 * (chosen["seconds"] / best["seconds"] - 1)
            out.append(f"choice: among {len(choice)} plans measured, the chosen one is {lost:.1f} % off the best ({best['key']})")
    reckoned = [r for r in choice if "reckoned_seconds" in r]
    if reckoned:
        off = [abs(r["reckoned_seconds"] / r["seconds"] - 1) for r in reckoned]
        first = min(reckoned, key=lambda r: r["reckoned_seconds"])
        lost = 100 * (first["seconds"] / min(r["seconds"] for r in reckoned) - 1)
        out.append(f"reckoned: {len(off)} plans, off by {100 * median(off):.1f} % (median), {100 * max(off):.1f} % (most)")
        out.append(f"reckoned: the fastest of them by that database is {lost:.1f} % off the fastest ({first['key']})")
    cards = [r for r in rows if r["table"] == "cards"]
    if cards:
        fits, not_ = [r for r in cards if r["key"].endswith("longest")], [r for r in cards if r["key"].endswith("1.05 x")]
        ran, refused = sum("peak" in r for r in fits), sum(not r.get("plan") for r in not_)
        out.append(f"cards: {ran} of {len(fits)} longest run; {refused} of {len(not_)} 1.05 times as long do not fit by the planner's word")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "run", "table", "reckon"))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="H200")
    parser.add_argument("--costs", default="")
    parser.add_argument("--tables", nargs="+", choices=ORDER, default=ORDER)
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    {"plan": plan, "run": run, "table": table, "reckon": reckon}[args.what](args)


if __name__ == "__main__":
    main()
