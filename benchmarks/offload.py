"""Host memory for block inputs: a training step of 48 Evoformer blocks at several limits, without and with it, promised against measured.

    python benchmarks/offload.py --device H200 --json benchmarks/results/offload_h200.json

Prints the link's speed and a Markdown table; a row that does not fit is printed with its need. `exposed`: seconds in which the step waits
for copies; measured between events on its stream (`waited`), and as the difference to the same schedule with every input left on the
device, which may take more than the limit.
`same`: whether outputs and gradients are those of that schedule to the bit.
"""

import argparse
import datetime
import gc
import json
import sys
from dataclasses import replace

import msgspec
import torch

import foldfit
from foldfit.cost.devices import Device, find_device
from foldfit.errors import DoesNotFit
from foldfit.plans import Plan
from foldfit.problem import Stack
from foldfit.runtime.job import Job, job_of
from foldfit.runtime.link import host_buffer, streams_of
from foldfit.runtime.measure import measure
from foldfit.runtime.offload import pool_of
from foldfit.units import parse_bytes, parse_host_memory

GIB = 2**30
MIB = 2**20


def link(size: int = GIB, repeats: int = 5) -> dict[str, float]:
    """Bytes a second of copies to pinned memory and back, each alone and both at once (each way)."""
    card = torch.device("cuda", torch.cuda.current_device())
    host = [host_buffer(size, True) for _ in range(2)]
    device = [torch.empty(size, dtype=torch.uint8, device=card) for _ in range(2)]
    pairs = [(host[0], device[0]), (device[1], host[1])]
    out = {}
    for name, ways in (("out", [0]), ("back", [1]), ("both", [0, 1])):
        seconds = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for way in ways:
                streams_of(card)[way].wait_event(start)
                with torch.cuda.stream(streams_of(card)[way]):
                    pairs[way][0].copy_(pairs[way][1], non_blocking=True)
            for way in ways:
                torch.cuda.current_stream().wait_stream(streams_of(card)[way])
            end.record()
            torch.cuda.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
        out[name] = size / min(seconds)
    return out


def held(plan: Plan) -> Plan:
    """The same schedule with every input on the device."""
    schedule = tuple(step for step in plan.schedule if step.split()[0] not in ("offload", "drop", "fetch"))
    return msgspec.structs.replace(plan, schedule=schedule).signed()


def results(job: Job, plan: Plan) -> list[torch.Tensor]:
    """Outputs and gradients of a step with one seed."""
    torch.manual_seed(1)
    state = {name: x.detach().clone().requires_grad_() for name, x in job.inputs.items()}
    out = job.model.run(state, {}, plan)
    torch.autograd.backward(list(out.values()), [x.detach() for x in out.values()])
    found = [*(x.detach() for x in out.values()), *(x.grad for x in state.values()), *(p.grad for p in job.model.parameters())]
    job.model.zero_grad(set_to_none=True)
    return found


def run(args: argparse.Namespace, limit: int, host: int, device: Device) -> dict:
    row = {"limit": limit, "host_memory": host}
    try:
        plan = foldfit.plan(
            [Stack("evoformer", args.blocks, args.n_seq)], n_res=args.n_res, mode="train", precision=args.precision,
            device=device, memory=limit, host_memory=host, costs=args.costs,
        )  # fmt: skip
    except DoesNotFit as error:
        return row | {"fits": False, "need": error.need}
    job = job_of(plan)
    m = measure(job.model, job.inputs, plan, repeat=args.repeat)
    row |= {
        "fits": True, "kept": m.kept, "promised_peak": m.promised_peak_bytes, "peak": m.peak_bytes, "promised_seconds": m.promised_seconds,
        "seconds": m.seconds, "spread": m.spread, "gap": plan.bound.gap if plan.bound else None, "costs": plan.costs,
        "promised_host": m.promised_host_bytes, "host": m.host_bytes, "inputs_away": sum(s.startswith("drop") for s in plan.schedule),
        "promised_exposed": plan.promised.exposed, "waited": m.exposed,
    }  # fmt: skip
    if m.promised_host_bytes:
        stay = held(plan)
        away, ours = results(job, plan), results(job, stay)
        row["same"] = all(torch.equal(a, b) for a, b in zip(away, ours, strict=True))
        del away, ours
        pool_of.cache_clear()
        row["held_seconds"] = measure(job.model, job.inputs, stay, repeat=args.repeat).seconds
        row["exposed"] = m.seconds - row["held_seconds"]
    return row


def line(row: dict) -> str:
    head = f"| {row['limit'] / 1e9:.2f} | {row['host_memory'] / GIB:.0f} |"
    if not row["fits"]:
        return f"{head} does not fit: needs {row['need'] / MIB:.0f} |" + " |" * 12
    peak, promised, exposed = row["peak"], row["promised_peak"], row.get("exposed", 0.0)
    return (
        f"{head} {promised / MIB:.0f} | {peak / MIB:.0f} | {peak / promised:.4f} | {row['promised_seconds'] * 1e3:.0f} | "
        f"{row['seconds'] * 1e3:.0f} | {row['inputs_away']} | {row['promised_host'] / MIB:.0f} | {row['host'] / MIB:.0f} | "
        f"{row['promised_exposed'] * 1e3:.1f} | {row['waited'] * 1e3:.1f} | {exposed * 1e3:.1f} | {row.get('same', '')} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="H200")
    parser.add_argument("--blocks", type=int, default=48)
    parser.add_argument("--n-seq", type=int, default=512)
    parser.add_argument("--n-res", type=int, default=384)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--limits", nargs="+", default=["4GB", "5GB", "6GB", "8GB"])
    parser.add_argument("--host-memory", nargs="+", default=["0", "64GiB"])
    parser.add_argument("--costs", default="", help="measured costs; modelled: none")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--link", type=float, metavar="GB/S", help="plan with this speed of the link, not the device table's")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    device = find_device(args.device)
    if args.link:
        device = replace(device, host_link=args.link * 1e9)
    cuda = device.name != "cpu"
    speeds = link() if cuda else {}
    for name, speed in speeds.items():
        print(f"link {name}: {speed / 1e9:.1f} GB/s")
    print(f"planned with {device.host_link / 1e9:.1f} GB/s\n")
    print("| limit GB | host GiB | promised MiB | measured MiB | ratio | promised ms | ms | inputs away | host promised MiB | host MiB "
          "| exposed promised ms | waited ms | exposed ms | same |\n" + "|---" * 14 + "|")  # fmt: skip
    rows = []
    for limit in args.limits:
        for host in args.host_memory:
            rows.append(run(args, parse_bytes(limit), parse_host_memory(host), device))
            print(line(rows[-1]), flush=True)
            pool_of.cache_clear()
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
    if args.json:
        head = {
            "benchmark": "offload", "foldfit": foldfit.__version__, "device": torch.cuda.get_device_name() if cuda else "cpu",
            "torch": torch.__version__, "python": sys.version.split()[0], "date": datetime.date.today().isoformat(), "link": speeds,
            "planned_link": device.host_link, "blocks": args.blocks, "n_seq": args.n_seq, "n_res": args.n_res, "precision": args.precision,
        }  # fmt: skip
        with open(args.json, "w") as f:
            json.dump(head | {"rows": rows}, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
