"""`foldfit run`."""

import argparse
import os
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", metavar="plan.json")
    add("--msa", metavar="FILE", help="the alignment to run on; without it, random inputs of the plan's sizes")
    add("--weights", metavar="FILE.npz", help="AlphaFold's published parameters; without them, random ones of the same shapes")
    add("--repeat", type=int, default=1, metavar="N", help="timed runs after the metered one (default 1)")
    add("--warmup", type=int, default=0, metavar="N", help="runs between them, for nothing (default 0)")
    add("--budget", type=float, default=inf, metavar="SECONDS", help="for all of them: no more begin that would end later")
    add("--seed", type=int, default=0, metavar="N", help="of the random parameters, inputs and MSA sample (default 0)")
    add("--save", metavar="FILE.safetensors", help="keep the representations of an inference")
    add("--trace", metavar="FILE.json", help="planned and measured as a trace for Chrome or Perfetto; takes one run more")
    add("--snapshot", metavar="FILE.pickle", help="PyTorch's own memory snapshot of one run more, on CUDA")
    add("-o", "--output", metavar="DIR", help="write the plan, measured.json and a picture of memory over time there")
    add("--force", action="store_true", help="overwrite what is there")


def main(args: argparse.Namespace) -> None:
    from foldfit.cli import import_torch
    from foldfit.errors import BadInput, FoldfitError
    from foldfit.plans import Plan

    plan = Plan.load(args.plan)
    if args.repeat < 0 or args.warmup < 0 or not args.budget >= 0:
        raise BadInput(f"--repeat {args.repeat} --warmup {args.warmup} --budget {args.budget}: expected 0 or more")
    if args.save and plan.problem.mode == "train":
        raise BadInput("--save keeps the result of an inference, and this is the plan of a training step")
    check_outputs(args)
    import_torch()
    import torch.distributed as dist
    from torch import OutOfMemoryError

    from foldfit.cli.progress import steps
    from foldfit.runtime import record
    from foldfit.runtime.job import can_save, job_of, save_state
    from foldfit.runtime.launch import joined, worst
    from foldfit.runtime.measure import measure
    from foldfit.units import format_bytes

    if args.snapshot:
        record.can_snapshot(plan)
    if args.save:
        can_save()
    try:
        with joined(plan.problem) as ranks:
            first = ranks.is_first
            replace(ranks, group=ranks.all).agree(**same_flags(args))
            job = job_of(plan, args.msa, args.weights, args.seed, ranks)
            for note in job.notes if first else ():
                print(f"note: {note}", file=sys.stderr)
            with steps(plan, "measuring", shown=first) as tick:
                measured = measure(
                    job.model, job.inputs, plan, repeat=args.repeat, warmup=args.warmup, budget=args.budget, optimizer=job.optimizer,
                    on_step=tick,
                )  # fmt: skip
            if args.trace:
                measured = record.time_steps(job, plan, measured)
            if args.snapshot:
                record.snapshot(job, plan, args.snapshot if first else f"{args.snapshot}.rank{dist.get_rank()}")
            measured = worst(measured)
            if first:
                write(args, plan, measured)
            if args.save:
                save_state(job, plan, args.save)
            measured.check()
    except OutOfMemoryError as error:
        rank = f"rank {os.environ.get('RANK')}: " if plan.problem.world > 1 else ""
        raise FoldfitError(
            f"{rank}the device has no {format_bytes(plan.promised.peak_bytes)} free, which the plan promises to stay within: end what else "
            f"runs there, or plan with a smaller --memory ({str(error).splitlines()[0]})"
        ) from None


def check_outputs(args: argparse.Namespace) -> None:
    """Raises BadInput, before anything runs, where an output is there, is given twice or cannot be written, MissingEnvironment on a full
    disk. The plan that runs may lie among them."""
    from foldfit.cli.outputs import refuse_to_overwrite
    from foldfit.errors import BadInput
    from foldfit.plans import check_folder

    in_folder = [Path(args.output) / name for name in ("measured.json", "plan.json", "memory.svg")] if args.output else []
    paths = [*in_folder, *(Path(path) for path in (args.save, args.trace, args.snapshot) if path)]
    known: set[Path] = set()
    for path in paths:
        if path.resolve() in known:
            raise BadInput(f"{path} is given twice: one output would overwrite another")
        known.add(path.resolve())
        if not (path.name == "plan.json" and path.exists() and path.samefile(args.plan)):
            refuse_to_overwrite([path], args.force)
    for folder in dict.fromkeys(path.parent for path in paths):
        check_folder(folder)


def same_flags(args: argparse.Namespace) -> dict[str, object]:
    """What every rank must have been given, for all of them to run as often."""
    outputs = {f"--{name}": bool(getattr(args, name)) for name in ("save", "trace", "snapshot")}
    return outputs | {f"--{name}": getattr(args, name) for name in ("repeat", "warmup", "budget")}


def write(args: argparse.Namespace, plan, measured) -> None:
    from foldfit.errors import MissingEnvironment
    from foldfit.plans import write_text
    from foldfit.report.memory import memory_picture

    found = msgspec.to_builtins(measured)
    if args.output:
        plan.save(Path(args.output) / "plan.json")
        write_text(Path(args.output) / "measured.json", msgspec.json.format(msgspec.json.encode(measured), indent=1).decode() + "\n")
        try:
            memory_picture(plan, found, Path(args.output) / "memory.svg")
        except MissingEnvironment as missing:
            print(f"note: {missing}", file=sys.stderr)
    if args.trace:
        from foldfit.cli.gather import planned_run
        from foldfit.report.trace import trace

        write_text(args.trace, trace(planned_run(args.plan, plan, found)))
    print(msgspec.json.encode(measured).decode() if args.json else table(measured))


def table(measured) -> str:
    from foldfit.units import format_bytes, format_seconds

    m = measured
    lines = [f"{'':10}{'promised':>14}{'measured':>14}{'ratio':>8}"]
    rows: list[tuple] = [
        ("peak", format_bytes, m.promised_peak_bytes, m.peak_bytes),
        ("time", format_seconds, m.promised_seconds, m.seconds),
    ]
    if m.promised_host_bytes:
        rows.append(("host", format_bytes, m.promised_host_bytes, m.host_bytes))
    if m.exposed or m.promised_host_bytes:
        rows.append(("exposed", format_seconds, m.promised_exposed, m.exposed))
    for name, text, promised, got in rows:
        lines.append(f"{name:10}{text(promised):>14}{text(got):>14}{got / promised if promised else 0:>8.3f}")
    if not m.repeat:
        lines.append("the time is that of the metered run, which takes longer: --repeat 1 or more measures it alone")
    if m.rank_peaks:
        lines.append("peak of each rank: " + ", ".join(format_bytes(p) for p in m.rank_peaks))
    return "\n".join(lines)
