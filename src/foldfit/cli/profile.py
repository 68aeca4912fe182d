"""`foldfit profile`."""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from foldfit.cli import problem as flags

if TYPE_CHECKING:
    from foldfit.cost.database import Costs
    from foldfit.cost.devices import Device
    from foldfit.cost.sample import Sample
    from foldfit.planner.worth import Task
    from foldfit.problem import Problem

SIZES = {
    "evoformer": ("128x256", "512x384", "512x256", "128x512", "128x1024", "128x2048"),
    "extra_msa": ("1024x256", "5120x384", "1024x384"),
    "pairformer": ("384", "256", "768"),
}
"""Of --all: n_seq x n_res, or n_res alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    add = parser.add_argument
    add("--gpus", default="1", metavar="N", help="the collectives between N ranks, which torchrun starts, and nothing else")
    add("--sizes", default="", help="several, by commas: n_seq x n_res, as 128x256,512x384; n_res alone without an MSA")
    add("--precisions", default="", help="several, by commas, as bf16,fp32")
    add("--all", action="store_true", help="every stack, precision and a handful of sizes: what a database that ships has")
    add("--minutes", type=float, metavar="M", help="stop after so long, the most informative measured; call again for the rest")
    add("--run", action="store_true", help="also run one plan: what a whole run takes beyond the sum of its parts")
    add("--compile", action="store_true", help="run options once for nothing but their kernels' compilation: what --all does first")
    add("--again", action="store_true", help="measure also what the database has already")


def main(args: argparse.Namespace) -> None:
    """Measures what the planner may choose, and adds it to the database of --costs as it goes: it can be stopped and called
    again."""
    import json

    import torch

    from foldfit.cli.collectives import collectives
    from foldfit.cli.progress import counted
    from foldfit.cost.accuracy import accuracy, overall
    from foldfit.cost.database import user_file
    from foldfit.errors import MissingEnvironment
    from foldfit.planner.worth import tasks
    from foldfit.profile.here import costs_here

    until = time.monotonic() + 60 * args.minutes if args.minutes is not None else float("inf")
    path, args.costs = args.costs, "modelled"
    if args.gpus != "1":
        args.n_res, args.n_seq = args.n_res or 1, args.n_seq or "1"
    problems, device = asked(args)
    path = Path(path or user_file(device.name))
    if problems[0].world > 1:
        return collectives(problems[0], device, path, args.json)
    if device.name != "cpu" and not torch.cuda.is_available():
        raise MissingEnvironment(f"no {device.name} here: profile on the machine that has one, and plan anywhere with its file as --costs")
    costs = costs_here(path, device)
    samples = {s.identity: s for s in costs.samples}
    before, asked_for = len(samples), tasks(problems, device)
    todo = [t for t in asked_for if args.again or t.identity not in samples]
    if args.compile:
        compile_kernels(todo)
        return
    if args.all and device.name != "cpu":
        compile_ahead(args, sorted({t.problem.precision for t in todo}))
    with counted(len(todo), "measuring") as tick:
        for found in measured(todo, until, tick):
            samples |= {s.identity: s for s in found}
            costs = kept(costs, samples.values(), path)
    if args.run:
        costs = whole_run(problems[0], replace(device, costs=str(path)), costs)
        costs.save(path)
    left = sum(t.identity not in samples for t in todo)
    errors = overall(accuracy(costs.samples, device, [t.sub for t in asked_for]))
    out = {"costs": str(path), "samples": len(samples), "measured": len(samples) - before, "left": left, "errors": errors}
    print(json.dumps(out) if args.json else text(out))


def asked(args: argparse.Namespace) -> "tuple[list[Problem], Device]":
    """The problems, the most usual first."""
    from foldfit.bench.sweep import sized

    if args.all:
        device = flags.device_of(args.device)[0]
        given = [(stack, size, "train") for turn in range(6) for stack, sizes in SIZES.items() for size in sizes[turn : turn + 1]]
        precisions = [p for p in ("bf16", "tf32", "fp32", "fp16") if p in device.peaks]
    else:
        given = [(args.stack, size, args.mode) for size in args.sizes.split(",")]
        precisions = args.precisions.split(",") if args.precisions else [args.precision]
    out = []
    for precision in precisions:
        for stack, size, mode in given:
            own = argparse.Namespace(**vars(args) | {"stack": stack, "precision": precision, "mode": mode})
            if size:
                own.n_res, own.n_seq = 1, ",".join("1" for _ in stack.split(","))
            problem, device = flags.problem_of(own)
            out += sized(problem, size) if size else [problem]
    return out, device


def measured(todo: "list[Task]", until: float, tick) -> "Iterator[list[Sample]]":
    """Samples of one sub-module at a time, until all are there or the time is up."""
    from torch import OutOfMemoryError

    from foldfit.profile.options import Bench, release

    for _, group in groupby(todo, key=lambda t: (id(t.problem), t.sub.name)):
        some = list(group)
        if time.monotonic() > until:
            return
        bench = Bench(some[0].problem, some[0].shapes, some[0].sub)
        found = []
        for task in some:
            tick(f"{task.problem.precision} {task.sub.name}, {task.choice.kernel}, {task.choice.rows} rows")
            if time.monotonic() < until:
                try:
                    found.append(bench.sample(task.choice))
                except OutOfMemoryError:
                    print(f"note: no memory to measure {task.sub.name} by {task.choice.kernel}, {task.choice.rows} rows", file=sys.stderr)
        del bench  # before the next one's tensors
        release()
        yield found


def compile_kernels(todo: "list[Task]") -> None:
    """Each option of the first size of every stack, once: other sizes run the same machine code, but for a few."""
    from torch import OutOfMemoryError

    from foldfit.profile.options import Bench

    first: dict[str, object] = {}
    for task in todo:
        if first.setdefault(task.problem.stacks[0].name, task.problem) is task.problem:
            try:
                Bench(task.problem, task.shapes, task.sub).compile(task.choice)
            except OutOfMemoryError:
                continue  # whatever needs it will compile it


def compile_ahead(args: argparse.Namespace, precisions: list[str]) -> None:
    """Triton compiles on one core, and keeps what it compiled on disk: a process for every precision and stack."""
    from foldfit.cli.progress import counted

    flags = ["--device", args.device, "--costs", args.costs, "--memory", "8GiB", "--compile"]
    flags += ["--providers", args.providers] if args.providers else []
    commands = [
        [sys.executable, "-m", "foldfit", "profile", "--mode", "train", "--stack", stack, "--sizes", sizes[0], "--precision", p, *flags]
        for p in precisions
        for stack, sizes in SIZES.items()
    ]
    with counted(len(commands), "compiling") as tick:
        running = [(subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), c) for c in commands]
        for process, command in running:
            process.wait()
            tick(" ".join(command[6:12]))


def kept(costs: "Costs", samples: "Iterable[Sample]", path: Path) -> "Costs":
    import datetime

    import msgspec

    costs = msgspec.structs.replace(costs, samples=tuple(samples), date=datetime.date.today().isoformat())
    costs.save(path)
    return costs


def text(out: dict) -> str:
    more = f", {out['left']} left: call again for them" if out["left"] else ""
    return f"{out['measured']} options measured{more}; {out['costs']} has {out['samples']}: {out['errors']}"


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
