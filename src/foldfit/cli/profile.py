"""`foldfit profile`."""

import argparse
import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from foldfit.cli import problem as flags
from foldfit.errors import BadInput
from foldfit.problem import Precision

if TYPE_CHECKING:
    from foldfit.cost.database import Costs
    from foldfit.cost.devices import Device
    from foldfit.cost.sample import Sample
    from foldfit.planner.worth import Task
    from foldfit.problem import Problem

STUDY: dict[str, tuple[str, ...]] = {"evoformer": ("128x256", "512x384", "512x256"), "extra_msa": ("1024x256", "5120x384", "1024x384")}
"""n_seq x n_res of its training, of Jumper et al. (2021) as well."""
OTHERS: dict[str, tuple[str, ...]] = {"pairformer": ("384", "256", "768"), "evoformer": ("128x512", "128x1024")}
LONG: dict[str, tuple[str, ...]] = {"evoformer": ("128x2048",)}
ALL = (
    ("bf16", "train", STUDY), ("bf16", "infer", LONG), ("fp16", "train", STUDY), ("tf32", "infer", LONG), ("bf16", "train", OTHERS),
    ("tf32", "train", STUDY), ("fp32", "train", STUDY), ("fp32", "infer", LONG), ("tf32", "train", OTHERS), ("fp32", "train", OTHERS),
    ("fp16", "infer", LONG), ("fp16", "train", OTHERS),
)  # fmt: skip
"""Of --all: what most plans stand on first."""
LIBRARIES = ("reference", "sdpa")
"""Kernels that nothing is compiled for."""
SAVED = 2.0
"""Seconds between two writes of the database, whatever ends the process."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)
    add = parser.add_argument
    add("--gpus", default="1", metavar="N", help="the collectives between N ranks, which torchrun starts, and nothing else")
    add("--sizes", default="", help="several, by commas: n_seq x n_res, as 128x256,512x384; n_res alone without an MSA")
    add("--precisions", default="", help="several, by commas, as bf16,fp32")
    add("--all", action="store_true", help="every stack, precision and a handful of sizes: what a database that ships has")
    add("--minutes", type=float, metavar="M", help="stop after so long, the most informative measured; call again for the rest")
    add("--run", action="store_true", help="also run one plan: what a whole run takes beyond the sum of its parts")
    add(
        "--compile",
        metavar="KIND",
        help="run a kind of sub-module once for nothing but its kernels' compilation; all: every kind, several at a time",
    )
    add("--again", nargs="?", const="all", metavar="KERNELS", help="forget what the database has of these, or of all, and measure it anew")


def main(args: argparse.Namespace) -> None:
    """Measures what the planner may choose, and adds it to the database of --costs as it goes: it can be stopped and called
    again."""
    import json

    import torch

    from foldfit.cli.collectives import collectives
    from foldfit.cli.progress import counted
    from foldfit.cost.accuracy import accuracy, overall
    from foldfit.cost.database import user_file
    from foldfit.cost.spikes import lesser, spikes
    from foldfit.errors import MissingEnvironment
    from foldfit.planner.worth import tasks
    from foldfit.profile.here import costs_here

    check_flags(args)
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
    asked_for = tasks(problems, device)
    if not asked_for:
        raise BadInput(
            "nothing to measure: all options are beyond the memory, or take longer than profiling may by the model: smaller --sizes"
        )
    samples = {s.identity: s for s in remembered(costs, asked_for, args.again)}
    todo = [t for t in asked_for if t.identity not in samples]
    if args.compile == "all":
        return compile_ahead(args, asked_for)
    if args.compile:
        return compile_kernels([t for t in asked_for if t.sub.kind == args.compile])
    if args.again:
        costs = kept(costs, samples.values(), path)
    if args.all and device.name != "cpu":
        compile_ahead(args, todo)
    with counted(len(todo), "measuring") as tick:
        saved = time.monotonic()
        for found in measured(todo, until, tick):
            samples |= {s.identity: s for s in found}
            if time.monotonic() > saved + SAVED:
                costs, saved = kept(costs, samples.values(), path), time.monotonic()
    new = [samples[t.identity] for t in todo if t.identity in samples]
    if new:
        costs = kept(costs, samples.values(), path)
        doubtful = spikes(samples.values(), new)
        once_more = [t for t in asked_for if t.identity in doubtful]
        with counted(len(once_more), "measuring once more") as tick:
            for found in measured(once_more, until, tick):
                samples |= {s.identity: lesser(s, samples[s.identity]) for s in found}
        costs = kept(costs, samples.values(), path)
    if args.run:
        costs = whole_run(problems[0], replace(device, costs=str(path)), costs)
        costs.save(path)
    errors = overall(accuracy(costs.samples, device, [t.sub for t in asked_for]))
    out = {"costs": str(path), "samples": len(samples), "measured": len(new), "left": len(todo) - len(new), "errors": errors}
    print(json.dumps(out) if args.json else text(out))


def check_flags(args: argparse.Namespace) -> None:
    """Raises BadInput for names that mean nothing, and no time."""
    from foldfit.model import SUB_MODULES
    from foldfit.ops import KERNELS

    for flag, given, known in (
        ("precisions", args.precisions, get_args(Precision)), ("compile", args.compile, ("all", *SUB_MODULES)),
        ("again", args.again, ("all", *KERNELS)),
    ):  # fmt: skip
        for word in given.split(",") if given else ():
            if word not in known:
                raise BadInput(f"--{flag} {given}: expected {', '.join(known)}, got {word!r}")
    if args.minutes is not None and not args.minutes >= 0:
        raise BadInput(f"--minutes {args.minutes:g}: expected 0 or more")


def asked(args: argparse.Namespace) -> "tuple[list[Problem], Device]":
    """The problems, the most usual first."""
    from foldfit.bench.sweep import sized

    if args.all:
        device = flags.device_of(args.device)[0]
        precisions = args.precisions.split(",") if args.precisions else list(device.peaks)
        given = [(p, *rest) for p, mode, sizes in ALL if p in precisions for rest in in_turn(mode, sizes)]
    else:
        precisions = args.precisions.split(",") if args.precisions else [args.precision]
        given = [(p, args.mode, args.stack, size) for p in precisions for size in args.sizes.split(",")]
    out = []
    for precision, mode, stack, size in given:
        own = argparse.Namespace(**vars(args) | {"stack": stack, "precision": precision, "mode": mode})
        if size:
            own.n_res, own.n_seq = 1, ",".join("1" for _ in stack.split(","))
        problem, device = flags.problem_of(own)
        out += sized(problem, size) if size else [problem]
    return out, device


def in_turn(mode: str, sizes: dict[str, tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """Mode, stack and size: the first sizes of all stacks, then the second ones."""
    turns = zip_longest(*([(mode, stack, size) for size in some] for stack, some in sizes.items()))
    return [each for turn in turns for each in turn if each]


def remembered(costs: "Costs", asked_for: "list[Task]", again: str | None) -> "list[Sample]":
    """The samples but those to be measured anew: of these kernels, of every size of what is asked for."""
    forgotten = {t.identity[0] for t in asked_for if again and (again == "all" or t.choice.kernel in again.split(","))}
    return [s for s in costs.samples if s.key not in forgotten]


def measured(todo: "list[Task]", until: float, tick) -> "Iterator[list[Sample]]":
    """Samples of one sub-module at a time, until all are there or the time is up."""
    from torch import OutOfMemoryError

    from foldfit.profile.options import Bench, release

    problem: Problem | None = None
    for _, group in groupby(todo, key=lambda t: (id(t.problem), t.sub.name)):
        some = list(group)
        if time.monotonic() > until:
            return
        if some[0].problem is not problem:
            problem = some[0].problem
            gc.collect()
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
    """Each option by a kernel that is compiled, once."""
    from torch import OutOfMemoryError

    from foldfit.profile.options import Bench, release

    for _, group in groupby((t for t in todo if t.choice.kernel not in LIBRARIES), key=lambda t: (id(t.problem), t.sub.name)):
        some = list(group)
        try:
            bench = Bench(some[0].problem, some[0].shapes, some[0].sub)
            for task in some:
                bench.compile(task.choice)
            del bench
        except OutOfMemoryError:
            pass  # whatever needs it will compile it
        release()


def compile_ahead(args: argparse.Namespace, todo: "list[Task]") -> None:
    """Triton compiles on one core, and keeps what it compiled on disk: a process for every precision and kind of sub-module."""
    from foldfit.cli.progress import counted

    flags = ["--device", args.device, "--costs", args.costs, "--memory", "8GiB"]
    flags += ["--providers", args.providers] if args.providers else []
    jobs = list(dict.fromkeys((t.problem.precision, t.sub.kind) for t in todo if t.choice.kernel not in LIBRARIES))

    def run(job: tuple[str, str]) -> None:
        command = [sys.executable, "-m", "foldfit", "profile", "--all", "--precisions", job[0], "--compile", job[1], *flags]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    with counted(len(jobs), "compiling") as tick, ThreadPoolExecutor(os.cpu_count()) as pool:
        for job, _ in zip(jobs, pool.map(run, jobs), strict=True):
            tick(" ".join(job))


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
    """The database with the seconds of one whole run over the sum of its options', of the host's where those decide."""
    import msgspec

    from foldfit.cost.database import corrections
    from foldfit.planner.api import plan_problem
    from foldfit.planner.clocks import host_decides
    from foldfit.planner.options import option_table
    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure

    corrections.cache_clear()
    plan = plan_problem(problem, device)
    job = job_of(plan)
    measured = measure(job.model, job.inputs, plan, repeat=3)
    sizes = " + ".join(f"{s.blocks} x {s.name} {s.rows}" for s in problem.stacks)
    name = f"{sizes}, {problem.n_res}, {problem.mode}, {problem.precision}, {problem.launch}"
    ratio = measured.seconds / plan.promised.seconds
    by_host = host_decides(option_table(problem, device), plan)
    corrections.cache_clear()
    if by_host:
        return msgspec.structs.replace(costs, launched=costs.launched | {name: ratio * costs.host_factor})
    return msgspec.structs.replace(costs, runs=costs.runs | {name: ratio * costs.factor})
