"""Plans the cases of an experiment, runs those that fit where the device is here, and keeps what it found after each."""

import datetime
import gc
import platform
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foldfit._version import __version__
from foldfit.bench.case import Case, Runs
from foldfit.bench.results import NAMES, Result, Results, read_results
from foldfit.bench.tables import save
from foldfit.bench.torchrun import run_on_ranks
from foldfit.cost.devices import Device, cores
from foldfit.errors import BadInput, DoesNotFit, FoldfitError
from foldfit.planner.build import make_plan
from foldfit.planner.hopeless import refuse_hopeless
from foldfit.planner.options import OptionTable, option_table
from foldfit.plans import Plan

if TYPE_CHECKING:
    from foldfit.runtime.measure import Measured


def header(experiment: str, scale: str, device: Device, here: bool) -> Results:
    """The head of a result file that begins now."""
    versions, machine = {"foldfit": __version__}, ""
    if here:
        import torch

        versions["torch"] = str(torch.__version__)
        machine = f"{platform.machine()}, {cores()} cores" if device.name == "cpu" else torch.cuda.get_device_name()
    today = datetime.date.today().isoformat()
    return Results(experiment=experiment, scale=scale, device=device.name, machine=machine, versions=versions, date=today)


def bench(
    cases: Iterable[Case], head: Results, device: Device, here: bool, folder: Path | None = None, runs: Runs | None = None,
    on_case: Callable[[str], None] | None = None, ranks: int = 1,
) -> Results:  # fmt: skip
    """Every case planned; run where the device is `here`, as many `ranks` of it as the case wants, and `runs` has the time. Rows
    that `folder` has already, from the same experiment, machine and versions, are taken from there, but for those which could only be
    predicted. Raises BadInput for a file of another origin."""
    path = folder / NAMES[head.experiment][0] if folder else None
    before = read_results(path) if path and path.exists() else head
    if not head.same_origin(before):
        raise BadInput(f"{path} is {before.origin}; this is {head.origin}: give another -o, or --force")
    done = {r.key: r for r in before.results}
    for case in cases:
        if case.key in done and not (here and done[case.key].status == "predicted"):
            continue
        if on_case:
            on_case(case.key)
        done[case.key] = one(case, device, ranks if here else 0, runs or Runs())
        if folder:
            save(msgspec.structs.replace(head, results=tuple(done.values())), folder)
    results = msgspec.structs.replace(head, results=tuple(done.values()))
    if folder:
        save(results, folder)
    return results


def one(case: Case, device: Device, ranks: int, runs: Runs) -> Result:
    """`ranks`: how many can run here."""
    plain = Result(key=case.key, status="predicted", problem=case.problem, policy=case.policy, solver=case.solver, kernels=case.kernels)
    try:
        refuse_hopeless(case.problem)
        plan = make_plan(only(option_table(case.problem, device), case.kernels), case.policy, case.solver)
    except DoesNotFit as error:
        refused = msgspec.structs.replace(plain, status="does not fit", note=error.where, promised_peak=error.need)
        return confirmed(refused, case, device) if ranks and (case.problem.device_type, case.problem.world) == ("cuda", 1) else refused
    predicted = msgspec.structs.replace(
        plain, costs=plan.costs, promised_peak=plan.promised.peak_bytes, promised_seconds=plan.promised.seconds,
        gap=plan.bound.gap if plan.bound else 0.0, promised_exposed=plan.promised.exposed,
    )  # fmt: skip
    if 0 < ranks < case.problem.world:
        return msgspec.structs.replace(predicted, note=f"predicted: it takes {case.problem.world} devices, {ranks} here")
    if ranks and plan.promised.seconds > runs.budget:
        return msgspec.structs.replace(predicted, note=f"predicted: one run is promised to take longer than the {runs.budget:g} s given")
    return run(plan, predicted, runs) if ranks else predicted


def confirmed(refused: Result, case: Case, device: Device) -> Result:
    """A case that does not fit by the planner's word, run all the same with no more of the card than its limit."""
    import torch

    problem = msgspec.structs.replace(case.problem, memory=refused.promised_peak)
    try:
        plan = make_plan(only(option_table(problem, device), case.kernels), case.policy, case.solver)
    except DoesNotFit:  # hopeless: how much it would need has not been looked for
        return refused
    torch.cuda.set_per_process_memory_fraction(min(1.0, case.problem.memory / torch.cuda.get_device_properties(0).total_memory))
    try:
        found = run(plan, refused, Runs(repeat=0))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return found if found.status == "ran out of memory" else refused


def only(table: OptionTable, kernels: tuple[str, ...]) -> OptionTable:
    """The table without the other kernels. Raises BadInput where a sub-module has none of them."""
    if not kernels:
        return table
    stacks = []
    for stack in table.stacks:
        subs = tuple(
            replace(sub, options=tuple(o for o in sub.options if o.choice.kernel in kernels)) for sub in stack.sub_modules
        )  # fmt: skip
        for sub, whole in zip(subs, stack.sub_modules, strict=True):
            if not sub.options:
                has = ", ".join(dict.fromkeys(o.choice.kernel for o in whole.options))
                raise BadInput(f"--kernels {','.join(kernels)}: {sub.spec.name} has {has} here; add one of them")
        stacks.append(replace(stack, sub_modules=subs))
    return replace(table, stacks=tuple(stacks))


def run(plan: Plan, predicted: Result, runs: Runs) -> Result:
    import torch

    try:
        m = measured(plan, runs) if plan.problem.world == 1 else run_on_ranks(plan, runs)
    except FoldfitError as error:
        return msgspec.structs.replace(predicted, status="failed", note=str(error))
    except torch.OutOfMemoryError as error:
        return msgspec.structs.replace(predicted, status="ran out of memory", note=str(error).splitlines()[0])
    finally:
        gc.collect()
        torch.cuda.empty_cache()  # other processes may need it
    return msgspec.structs.replace(
        predicted, status="measured" if m.kept else "promise broken", peak=m.peak_bytes, activation=m.activation_bytes,
        seconds=m.seconds, spread=m.spread, repeat=m.repeat, exposed=m.exposed,
    )  # fmt: skip


def measured(plan: Plan, runs: Runs) -> "Measured":
    """On random inputs: nothing here depends on their values."""
    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure

    job = job_of(plan)
    return measure(job.model, job.inputs, plan, repeat=runs.repeat, warmup=runs.warmup, budget=runs.budget, optimizer=job.optimizer)
