"""State tensors on the host: one block of an inference at several limits, promised against measured, and beside the same slices with
everything on the device.

    python benchmarks/offload_inference.py --limits 1.5GB 2GB 2.6GB --json benchmarks/results/offload_inference_h200.json
    python benchmarks/offload_inference.py --longest --limits 95% --host-memory 110GB --no-held

Prints the link's speed by rows and by columns of a tensor, and a Markdown table. `exposed`: milliseconds in which the block waits for
copies: promised, between events on its stream, and as the difference to `held`, the same choices with everything on the device.
`same`: whether both results are equal to the bit. `peak U`: in pair tensors. --longest: n_res is the largest that is promised to fit.
"""

import argparse
import datetime
import gc
import json
import sys
import time
from dataclasses import replace
from itertools import pairwise

import msgspec
import torch

import foldfit
from foldfit.api import local_device
from foldfit.cost.devices import Device
from foldfit.errors import DoesNotFit
from foldfit.plans import Plan
from foldfit.problem import Stack
from foldfit.runtime.job import Job, job_of
from foldfit.runtime.link import IN, OUT, begin, host_buffer, streams_of
from foldfit.runtime.measure import measure
from foldfit.runtime.offload import pool_of
from foldfit.runtime.ranks import between, mark
from foldfit.runtime.record import time_steps
from foldfit.units import parse_host_memory, parse_memory

GIB, MIB = 2**30, 2**20


def link(n: int = 4096, c: int = 128, each: int = 64) -> dict[str, float]:
    """Bytes a second of slices of [n, n, c] of two bytes, rows and columns, `each` at a time: in, out, and both at once (each way);
    and the part of that time in which the copies were begun."""
    card = torch.device("cuda", torch.cuda.current_device())
    host = host_buffer(2 * n * n * c, True).view(torch.int16).view(n, n, c)
    for part in host.split(256):
        part.copy_(torch.randint(2**15, part.shape, device=card, dtype=host.dtype))
    out = {}
    for axis in (0, 1):
        shape = [n, n, c]
        shape[axis] = each
        there, back = torch.ones(shape, device=card, dtype=host.dtype), torch.empty(shape, device=card, dtype=host.dtype)
        for name, ways in (("in", (IN,)), ("out", (OUT,)), ("both", (IN, OUT))):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for at in range(0, n // 2, each):
                low, high = host.narrow(axis, at, each), host.narrow(axis, n // 2 + at, each)
                for way in ways:
                    begin(card, way, [(back, low) if way == IN else (high, there)], None)
            issued = time.perf_counter() - start
            for stream in streams_of(card):
                torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            took = time.perf_counter() - start
            out[f"{name} axis {axis}"] = host.nbytes / 2 / took
            out[f"{name} axis {axis} issued"] = issued / took
        assert torch.equal(host.narrow(axis, n // 2, each), there.cpu()) and torch.equal(back.cpu(), low)
    return out


def held(plan: Plan) -> Plan:
    """The same choices, with everything on the device."""
    choices = {name: tuple(msgspec.structs.replace(c, host="") for c in chosen) for name, chosen in plan.choices.items()}
    return msgspec.structs.replace(plan, choices=choices, hosted=()).signed()


def result(job: Job, plan: Plan) -> dict[str, torch.Tensor]:
    """On the host."""
    state = {name: x.to("cpu" if name in plan.hosted else "cuda", copy=True) for name, x in job.inputs.items()}
    with torch.no_grad():
        return {name: x.cpu() for name, x in job.model.run(state, {}, plan).items()}


def plan_of(args: argparse.Namespace, device: Device, limit: int, host: int) -> Plan:
    problem = dict(
        n_res=args.n_res, precision=args.precision, inputs="overwritten", device=device, memory=limit, host_memory=host, costs=args.costs
    )
    stacks = [Stack("evoformer", args.blocks, args.n_seq)]
    if args.longest:
        problem["n_res"] = foldfit.max_length(stacks, **{k: v for k, v in problem.items() if k != "n_res"}) // 64 * 64
    return foldfit.plan(stacks, **problem)


def run(args: argparse.Namespace, device: Device, limit: int, host: int) -> dict:
    row = {"limit": limit, "host_memory": host}
    try:
        plan = plan_of(args, device, limit, host)
    except DoesNotFit as error:
        return row | {"fits": False, "need": error.need}
    print(plan, file=sys.stderr, flush=True)
    start = time.perf_counter()
    job = job_of(plan)
    torch.cuda.synchronize()
    made = time.perf_counter() - start
    print(f"inputs made in {made:.1f} s", file=sys.stderr, flush=True)
    marks, start = [mark(True)], time.perf_counter()

    def on_step(step: str, sub_module: str) -> None:
        marks.append(mark(True))
        print(f"  {time.perf_counter() - start:8.2f} s: {sub_module} was begun", file=sys.stderr, flush=True)

    m = measure(job.model, job.inputs, plan, repeat=args.repeat, warmup=args.warmup, on_step=on_step)
    unit = next(x.nbytes for name, x in job.inputs.items() if name == "z")
    row |= {
        "fits": True, "n_res": plan.problem.n_res, "hosted": plan.hosted, "hosts": [[c.host for c in cs] for cs in plan.choices.values()],
        "rows": [[f"{c.kernel} {c.rows}" for c in cs] for cs in plan.choices.values()], "kept": m.kept, "unit": unit, "made_seconds": made,
        "promised_peak": m.promised_peak_bytes, "peak": m.peak_bytes, "promised_seconds": m.promised_seconds, "seconds": m.seconds,
        "spread": m.spread, "promised_host": m.promised_host_bytes, "host": m.host_bytes, "promised_exposed": m.promised_exposed,
        "exposed": m.exposed, "costs": plan.costs, "finite": all(bool(x[..., :64, :].isfinite().all()) for x in job.inputs.values()),
    }  # fmt: skip
    timed = [s.seconds for s in time_steps(job, plan, m).steps] if args.repeat else [between(a, b) for a, b in pairwise(marks)]
    row["sub_modules"] = [(s.sub_module, seconds) for s, seconds in zip(m.steps, timed, strict=True)]
    if plan.hosted and not args.no_held:
        stay = held(plan)
        ours = result(job, plan)
        row["same"] = all(torch.equal(a, b) for a, b in zip(ours.values(), result(job, stay).values(), strict=True))
        del ours
        inputs = {name: x.cuda() for name, x in job.inputs.items()}
        beside = measure(job.model, inputs, stay, repeat=args.repeat, warmup=args.warmup)
        row["held_seconds"], row["held_peak"] = beside.seconds, beside.peak_bytes
        row["held_sub_modules"] = [(s.sub_module, s.seconds) for s in time_steps(replace(job, inputs=inputs), stay, beside).steps]
    return row


def line(row: dict) -> str:
    head = f"| {row['limit'] / 1e9:.2f} | {row['host_memory'] / 1e9:.0f} |"
    if not row["fits"]:
        return f"{head} does not fit: needs {row['need'] / MIB:.0f} MiB |" + " |" * 13
    peak, promised, seconds = row["peak"], row["promised_peak"], row["seconds"]
    apart = f"{1e3 * row['held_seconds']:.1f} | {1e3 * (seconds - row['held_seconds']):.1f}" if "held_seconds" in row else " | "
    return (
        f"{head} {row['n_res']} | {' '.join(row['hosted'])} | {promised / MIB:.0f} | {peak / MIB:.0f} | {peak / promised:.4f} | "
        f"{peak / row['unit']:.2f} | {row['host'] / MIB:.0f} | {1e3 * row['promised_seconds']:.1f} | {1e3 * seconds:.1f} | "
        f"{1e3 * row['promised_exposed']:.1f} | {1e3 * row['exposed']:.1f} | {apart} | {row.get('same', '')} |"
    )


HEAD = (
    "| limit GB | host GB | n_res | on the host | promised MiB | measured MiB | ratio | peak U | host MiB | promised ms | ms "
    "| exposed promised | exposed | held ms | difference | same |\n" + "|---" * 16 + "|"
)


def steps(row: dict) -> str:
    """A sub-module a line: where things were, seconds with that and with everything on the device."""
    hosts = [host for chosen in row["hosts"] for host in chosen]
    beside = row.get("held_sub_modules") or [(name, 0.0) for name, _ in row["sub_modules"]]
    return "\n".join(
        f"  {name:40}{hosts[i % len(hosts)]:6}{1e3 * a:10.2f} ms{1e3 * b:10.2f} ms held"
        for i, ((name, a), (_, b)) in enumerate(zip(row["sub_modules"], beside, strict=True))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--n-seq", type=int, default=128)
    parser.add_argument("--n-res", type=int, default=2048)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--limits", nargs="+", default=["1.5GB", "2GB", "2.6GB"])
    parser.add_argument("--host-memory", default="16GB")
    parser.add_argument("--costs", default="", help="measured costs; modelled: none")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--longest", action="store_true")
    parser.add_argument("--no-held", action="store_true", help="without the run that has everything on the device")
    parser.add_argument("--no-link", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device, host = local_device("cuda"), parse_host_memory(args.host_memory)
    print(torch.cuda.get_device_name())
    speeds = {} if args.no_link else link()
    for name, speed in speeds.items():
        print(f"link {name}: {speed:.3f} of the time" if "issued" in name else f"link {name}: {speed / 1e9:.1f} GB/s")
    print(f"planned with {device.host_link / 1e9:.1f} GB/s\n\n{HEAD}", flush=True)
    rows = []
    if not args.repeat:  # the run that is measured is the first: its kernels are to be there
        warm = argparse.Namespace(**{**vars(args), "longest": False, "n_res": 1024, "no_held": True})
        run(warm, device, int(1e9), host)
    for limit in args.limits:
        rows.append(run(args, device, parse_memory(limit, device.memory, device.reserved), host))
        print(line(rows[-1]), flush=True)
        if rows[-1]["fits"]:
            print(steps(rows[-1]), file=sys.stderr, flush=True)
        pool_of.cache_clear()
        gc.collect()
        torch.cuda.empty_cache()
        if args.json:
            head = {
                "benchmark": "offload_inference", "foldfit": foldfit.__version__, "device": torch.cuda.get_device_name(),
                "torch": torch.__version__, "python": sys.version.split()[0], "date": datetime.date.today().isoformat(), "link": speeds,
                "planned_link": device.host_link, "blocks": args.blocks, "n_seq": args.n_seq, "precision": args.precision,
            }  # fmt: skip
            with open(args.json, "w") as f:
                json.dump(head | {"rows": rows}, f, indent=1)
                f.write("\n")


if __name__ == "__main__":
    main()
