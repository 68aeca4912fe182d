"""Plans the cases of an experiment, runs those that fit where the device is here, and keeps what it found after each."""

import datetime
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from foldfit._version import __version__
from foldfit.bench.case import Case, Runs
from foldfit.bench.planned import Planned, only, planned
from foldfit.bench.results import NAMES, Result, Results, read_results
from foldfit.bench.tables import save
from foldfit.bench.torchrun import run_on_ranks
from foldfit.cost.devices import Device, cores
from foldfit.errors import BadInput, DoesNotFit, FoldfitError
from foldfit.planner.build import make_plan
from foldfit.planner.options import option_table
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
    on_case: Callable[[str], None] | None = None, ranks: int = 1, anew: bool = False,
) -> Results:  # fmt: skip
    """Every case planned, and then, where the device is `here`, run: on as many `ranks` as it wants, the shortest first, as far as `runs`
    has the time. `folder` keeps plans and rows. Rows that it has already, from the same experiment, machine and versions, are taken
    from there, but for those which could only be predicted, or failed; its plans are as well where they were all predicted, on whichever
    machine; none where it begins `anew`. Raises BadInput for a file of another origin."""
    path = folder / NAMES[head.experiment][0] if folder else None
    before = read_results(path) if path and path.exists() and not anew else head
    if not (head.same_origin(before) or before.foretells(head)):
        raise BadInput(f"{path} is {before.origin}; this is {head.origin}: give another -o, or --force")
    done = {r.key: r for r in before.results}
    open_ = {"predicted", "failed"} if head.same_origin(before) else {"predicted", "failed", "does not fit"}
    todo = []
    for case in cases:
        if case.key in done and not (here and done[case.key].status in open_):
            continue
        if on_case:
            on_case(f"planning {case.key}")
        todo.append(planned(case, device, folder, done.get(case.key)))
        done[case.key] = todo[-1].row
    for row in outcomes(todo, device, ranks if here else 0, runs or Runs(), on_case):
        done[row.key] = row
        if folder:
            save(msgspec.structs.replace(head, results=tuple(done.values())), folder)
    results = msgspec.structs.replace(head, results=tuple(done.values()))
    if folder:
        save(results, folder)
    return results


def ranks_of(plan: Plan) -> tuple[int, int]:
    """What the ranks are started by."""
    return plan.problem.world, plan.problem.axial


def done_by(plan: Plan) -> bytes:
    """What a run of it does, whatever its limit was and whoever chose it."""
    return msgspec.json.encode([msgspec.structs.replace(plan.problem, memory=1), plan.choices, plan.schedule, plan.hosted])


def outcomes(
    todo: Sequence[Planned], device: Device, ranks: int, runs: Runs, on_case: Callable[[str], None] | None = None
) -> Iterator[Result]:
    """The rows: at once what does not run here, then what does, each plan once for all cases that have it. `ranks`: how many can run
    here."""
    fitting: dict[bytes, list[Planned]] = {}
    for each in todo:
        world, seconds = each.case.problem.world, each.row.promised_seconds
        if each.plan is None or not ranks:
            yield each.row
        elif ranks < world:
            yield msgspec.structs.replace(each.row, note=f"predicted: it takes {world} devices, {ranks} here")
        elif seconds > runs.budget:
            note = f"predicted: one run is promised to take longer than the {runs.budget:g} s given"
            yield msgspec.structs.replace(each.row, note=note)
        else:
            fitting.setdefault(done_by(each.plan), []).append(each)
    shared = [(of[0].plan, of) for of in fitting.values() if of[0].plan]
    shared.sort(key=lambda pair: (ranks_of(pair[0]), pair[0].promised.seconds))
    for of_ranks, group in groupby(shared, key=lambda pair: ranks_of(pair[0])):
        pairs = list(group)
        found = run_on_ranks([plan for plan, _ in pairs], runs) if of_ranks > (1, 1) else (run(plan, runs) for plan, _ in pairs)
        for _, of in pairs:
            if on_case:
                on_case(of[0].row.key)
            result = next(found)
            for each in of:
                yield outcome(each.row, result)
    for each in todo:
        if each.plan is None and ranks and (each.case.problem.device_type, each.case.problem.world) == ("cuda", 1):
            yield confirmed(each.row, each.case, device)


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
        found = outcome(refused, run(plan, Runs(repeat=0)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return found if found.status == "ran out of memory" else refused


def outcome(predicted: Result, found: "Measured | str") -> Result:
    """The row of a run: what was measured, or why not."""
    if isinstance(found, str):
        full = "OutOfMemoryError" in found
        return msgspec.structs.replace(predicted, status="ran out of memory" if full else "failed", note=found)
    return msgspec.structs.replace(
        predicted, status="measured" if found.kept else "promise broken", note="", peak=found.peak_bytes, activation=found.activation_bytes,
        seconds=found.seconds, spread=found.spread, repeat=found.repeat, exposed=found.exposed,
    )  # fmt: skip


def run(plan: Plan, runs: Runs) -> "Measured | str":
    """On this process's device; in words what went wrong, whatever a kernel did: the next case runs all the same."""
    from foldfit.runtime.meter import release_leftovers

    try:
        return measured(plan, runs)
    except FoldfitError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    finally:
        release_leftovers()


def measured(plan: Plan, runs: Runs) -> "Measured":
    """On random inputs: nothing here depends on their values."""
    from foldfit.runtime.job import job_of
    from foldfit.runtime.measure import measure

    job = job_of(plan)
    return measure(job.model, job.inputs, plan, repeat=runs.repeat, warmup=runs.warmup, budget=runs.budget, optimizer=job.optimizer)
